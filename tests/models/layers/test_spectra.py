"""Spectra and their inverse, and what holds for every enhancement network: lengths, levels, silence, batches."""

import math

import pytest
import torch
from torch import nn

from cslib.config import UserError
from cslib.models import crn, mask_gru, tf_conformer
from cslib.models.layers import spectra as module
from cslib.models.layers.spectra import (
    FLOOR,
    Enhancer,
    SpectralConfig,
    analyse,
    complex_ratio_mask,
    compressed,
    compressed_magnitude,
    described,
    expanded,
    frame_count,
    level_gains,
    recur,
    squared,
    synthesise,
    unit_mask,
)
from cslib.objectives.ccr.loss import reconstruction_loss

WINDOWS = [(512, 128), (400, 100), (64, 32), (16, 2)]
TINY = {
    "crn": crn.Config(channels=[4, 6, 8], recurrent_blocks=1),
    "causal crn": crn.Config(channels=[4, 6, 8], recurrent_blocks=1, causal=True),
    "mask_gru": mask_gru.Config(hidden=8),
    "tf_conformer": tf_conformer.Config(channels=8, blocks=1, heads=2, dense_layers=2, kernel=7),
}
every_network = pytest.mark.parametrize("name", TINY)


def noise(*shape, seed=1):
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(name, **values):
    """A tiny network whose batch norms and biases would let a leak show."""
    torch.manual_seed(0)
    config = TINY[name]
    package = {crn.Config: crn, mask_gru.Config: mask_gru, tf_conformer.Config: tf_conformer}[type(config)]
    model = package.build(type(config)(**{**vars(config), **values}))
    for part in model.modules():
        if isinstance(part, (nn.BatchNorm2d, nn.LayerNorm, nn.GRU)):
            for key, parameter in part.named_parameters():
                if "bias" in key:
                    nn.init.normal_(parameter, std=0.3)
    model(noise(3, 4000))
    return model.eval()


class Unchanged(Enhancer):
    """Gives back what it is shown, and remembers how many samples that were."""

    def __init__(self, config=None):
        super().__init__(config or SpectralConfig())
        self.shown, self.gains = [], iter([])

    def forward(self, noisy, lengths=None):
        self.shown.append(noisy.shape)
        return super().forward(noisy, lengths) * next(self.gains, 1.0)

    def estimate(self, spectrum, inside):
        return spectrum


@pytest.mark.parametrize("window, hop", WINDOWS)
@pytest.mark.parametrize("samples", [1, 2, 99, 127, 128, 129, 511, 513, 4001])
def test_synthesis_undoes_analysis_up_to_the_first_and_the_last_sample(window, hop, samples):
    audio = noise(2, samples)
    spectrum = analyse(audio, window, hop)
    assert spectrum.shape == (2, frame_count(samples, window, hop), window // 2 + 1)
    torch.testing.assert_close(synthesise(spectrum, window, hop, samples), audio, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("window, hop", WINDOWS)
def test_frames_are_those_of_the_short_time_fourier_transform(window, hop):
    audio = noise(2, 1000)
    padded = nn.functional.pad(audio, (window - hop, 2 * window))
    expected = torch.stft(padded, window, hop, window=torch.hann_window(window), center=False, return_complex=True)
    found = analyse(audio, window, hop)
    torch.testing.assert_close(found, expected.transpose(1, 2)[:, : found.shape[1]])


@pytest.mark.parametrize("samples", [1, 128, 129, 777])
def test_appended_silence_leaves_the_frames_unchanged(samples):
    audio = noise(1, samples)
    alone, longer = analyse(audio, 512, 128), analyse(nn.functional.pad(audio, (0, 999)), 512, 128)
    torch.testing.assert_close(longer[:, : alone.shape[1]], alone)
    assert not longer[:, alone.shape[1] :].abs().any()
    assert torch.equal(frame_count(torch.tensor([samples]), 512, 128), torch.tensor([alone.shape[1]]))


def test_compression_raises_magnitudes_to_a_power_keeps_phases_and_is_invertible():
    spectrum = analyse(noise(1, 2000), 512, 128)
    spectrum = spectrum[spectrum.abs() > 0.1]
    found = compressed(spectrum)
    torch.testing.assert_close(found.abs(), spectrum.abs() ** 0.3, rtol=1e-4, atol=0)
    torch.testing.assert_close(compressed_magnitude(spectrum), spectrum.abs() ** 0.3, rtol=1e-4, atol=0)
    torch.testing.assert_close(found.angle(), spectrum.angle(), rtol=0, atol=1e-5)
    torch.testing.assert_close(expanded(found), spectrum, rtol=1e-4, atol=0)
    parts = described(spectrum[None, None])[0, :, 0]
    torch.testing.assert_close(parts, torch.stack([found.abs(), found.real, found.imag]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("function", [compressed, compressed_magnitude, expanded, squared, described])
def test_gradients_stay_finite_and_bounded_where_a_spectrum_is_zero(function):
    for value in (0.0, 1e-30, 1e-8, 1e-4):
        spectrum = torch.full((1, 1, 1), value, dtype=torch.complex64, requires_grad=True)
        found = function(spectrum)
        (torch.view_as_real(found) if found.is_complex() else found).sum().backward()
        assert torch.view_as_real(spectrum.grad).abs().max() <= 3 * FLOOR**-0.35


def test_complex_masks_are_bounded_and_keep_the_phase():
    values = torch.cat([noise(500, 2), 30 * noise(500, 2), 1e4 * noise(500, 2)]).requires_grad_()
    mask = complex_ratio_mask(values)
    assert mask.abs().max() <= 2.0001 and mask[-500:].abs().min() > 1.9
    torch.testing.assert_close(mask.angle(), torch.view_as_complex(values.detach()).angle(), rtol=0, atol=1e-4)
    assert complex_ratio_mask(torch.tensor([unit_mask(), 0.0])).item() == pytest.approx(1, abs=1e-5)
    assert complex_ratio_mask(torch.zeros(2)) == 0
    zero = torch.zeros(2, requires_grad=True)
    (torch.view_as_real(complex_ratio_mask(zero)).sum() + torch.view_as_real(mask).sum()).backward()
    assert zero.grad.isfinite().all() and values.grad.isfinite().all()


def test_gains_normalise_spectra_and_causal_ones_use_only_the_past():
    spectrum = analyse(noise(2, 4000) * torch.tensor([[1.0], [1e-3]]), 512, 128)
    whole, running = level_gains(spectrum, None, causal=False), level_gains(spectrum, None, causal=True)
    torch.testing.assert_close(squared(spectrum * whole).mean((1, 2)), torch.ones(2))
    torch.testing.assert_close(running[:, -1:], whole)
    for frame in (1, 7, 20):
        torch.testing.assert_close(running[:, frame - 1 : frame], level_gains(spectrum[:, :frame], None, causal=False))


def test_silence_has_a_gain_of_one():
    spectrum = torch.zeros(1, 4, 9, dtype=torch.complex64)
    assert (level_gains(spectrum, None, True) == 1).all() and (level_gains(spectrum, None, False) == 1).all()


@pytest.mark.parametrize("bidirectional", [True, False])
def test_recurrence_leaves_the_padding_of_each_row_out(bidirectional):
    gru = nn.GRU(4, 3, 2, batch_first=True, bidirectional=bidirectional)
    rows, inside = noise(6, 11, 4), torch.arange(11) < torch.tensor([[11], [5]])
    together = recur(gru, rows, inside)
    assert together.shape[:2] == (6, 11)
    torch.testing.assert_close(together[:3], gru(rows[:3])[0])
    torch.testing.assert_close(together[3:, :5], gru(rows[3:, :5])[0])


@pytest.mark.parametrize(
    "values",
    [{"window": 510}, {"hop": 100}, {"hop": 512}, {"hop": 0}, {"window_seconds": 0.0}, {"window_seconds": math.nan}],
)
def test_a_wrong_configuration_is_refused(values):
    with pytest.raises(UserError, match=r"^network\.window.* must be"):
        SpectralConfig(**values)


@pytest.mark.parametrize("samples", [8001, 8800, 15200, 15201, 40000])
def test_windows_of_a_long_recording_have_one_size_and_add_up_to_it(samples):
    model, audio = Unchanged(SpectralConfig(window_seconds=0.5)), noise(1, samples)
    torch.testing.assert_close(model.enhance(audio), audio, atol=1e-6, rtol=1e-5)
    assert set(model.shown) == {(1, 8000)} and len(model.shown) == math.ceil((samples - 800) / 7200)


def test_windows_are_cross_faded():
    model, audio = Unchanged(SpectralConfig(window_seconds=0.5)), torch.ones(1, 15000)
    model.gains = iter([1.0, 2.0])
    enhanced = model.enhance(audio)[0]
    assert enhanced[0] == pytest.approx(1, abs=1e-4) and enhanced[-1] == pytest.approx(2, abs=1e-4)
    assert 0 < enhanced.diff().max() < 2 / 800 and enhanced.diff().min() > -1e-4  # the overlap: 800 samples or more


def test_windows_of_an_item_do_not_depend_on_the_batch():
    config, audio = SpectralConfig(window_seconds=0.5), noise(4, 20001)
    lengths = torch.tensor([20001, 8000, 9001, 5])
    together = Unchanged(config)
    enhanced = together.enhance(audio, lengths)
    inside = torch.arange(20001) < lengths[:, None]
    torch.testing.assert_close(enhanced, audio * inside, atol=1e-6, rtol=1e-5)
    assert together.shown == [(2, 8000)] + 5 * [(1, 8000)]


@every_network
@pytest.mark.parametrize("samples", [1, 2, 127, 999, 1601])
def test_output_is_as_long_as_the_input(name, samples):
    model = network(name)
    assert model(noise(2, samples)).shape == model.enhance(noise(2, samples)).shape == (2, samples)
    assert model(noise(1, samples)).isfinite().all()


@every_network
def test_output_depends_neither_on_padding_nor_on_the_batch(name):
    model, length = network(name), 777
    batch = noise(3, 2000)
    batch[1, length:] = math.nan  # garbage
    together, alone = model.enhance(batch, torch.tensor([2000, length, 1500])), model.enhance(batch[1:2, :length])
    torch.testing.assert_close(together[1, :length], alone[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together[0], model(batch[:1])[0], atol=1e-5, rtol=1e-4)
    assert not together[1, length:].any()
    assert not torch.allclose(model(batch[:1])[0, :length], model(batch[:1, :length])[0], atol=1e-4), "lengths matter"


@every_network
def test_windowed_items_are_enhanced_in_a_batch_as_alone(name):
    model, audio = network(name, window_seconds=0.2), noise(2, 7001)
    together = model.enhance(audio, torch.tensor([7001, 3000]))
    torch.testing.assert_close(together[0], model.enhance(audio[:1])[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together[1, :3000], model(audio[1:, :3000])[0], atol=1e-5, rtol=1e-4)
    joined = (7001 - 3200) // 2  # where the second of three windows begins
    torch.testing.assert_close(together[0, :joined], model(audio[:1, :3200])[0, :joined], atol=1e-5, rtol=1e-4)


@every_network
def test_the_level_is_restored_and_has_no_other_effect(name):
    model, audio = network(name), noise(1, 3000)
    expected = model(audio)
    assert expected.square().mean() > 1e-6
    for gain in (1e-4, 0.1, 30.0):
        torch.testing.assert_close(model(gain * audio) / gain, expected, atol=2e-5, rtol=1e-3)


@every_network
def test_digital_silence_stays_silent(name):
    model, audio = network(name), noise(1, 8000)
    assert not model(torch.zeros(2, 1000)).any()
    audio[:, :4000] = 0
    enhanced = model(audio)
    assert enhanced.isfinite().all() and enhanced[:, :3488].abs().max() < 1e-6 < enhanced[:, 4000:].abs().max()


@every_network
@pytest.mark.parametrize("seed", range(3))
def test_training_starts_near_the_noisy_speech(name, seed):
    torch.manual_seed(seed)
    audio, fresh = noise(2, 8000), network(name)
    for part in fresh.modules():
        if isinstance(part, (nn.BatchNorm2d, nn.LayerNorm, nn.GRU)) and hasattr(part, "reset_parameters"):
            part.reset_parameters()
    assert nn.functional.cosine_similarity(fresh.train()(audio), audio).min() > 0.9


@every_network
def test_bfloat16_training_step_is_finite_and_reaches_every_parameter(name):
    model = network(name).train()
    with torch.autocast("cpu", torch.bfloat16):
        enhanced = model(noise(2, 3001))
        loss, _ = reconstruction_loss(enhanced, noise(2, 3001, seed=2))
    loss.backward()
    assert enhanced.dtype == loss.dtype == torch.float32 and loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert [key for key, p in model.named_parameters() if not p.grad.any()] == []


@every_network
def test_gradients_are_finite_in_silence(name):
    model = network(name).train()
    noisy = torch.stack([torch.zeros(4000), torch.cat([torch.zeros(2000), noise(2000)])])
    reconstruction_loss(model(noisy), torch.zeros(2, 4000))[0].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.slow
@every_network
def test_a_tiny_network_learns_a_batch(name):
    model = network(name).train()
    time = torch.arange(3200) / 16000
    clean = 0.08 * torch.stack([torch.sin(2 * math.pi * (pitch * time)) * (time % 0.2 < 0.1) for pitch in (220, 900)])
    noisy = clean + 0.5 * noise(2, 3200)
    optimiser, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(12):
        loss, _ = reconstruction_loss(model(noisy), clean)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * min(losses[0], reconstruction_loss(noisy, clean)[0].item())


def test_constants_are_those_of_the_method():
    assert module.COMPRESSION == 0.3 and SpectralConfig().window_seconds == 10
