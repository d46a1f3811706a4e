"""Reverberation, noise and mixtures: ratios, timing and levels of the results."""

import math
import time

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import fftconvolve
from torch.utils.data import default_collate

from cslib.config import UserError, from_dict
from cslib.data.banks import NOISE_KINDS, Banks, BankWriter, open_banks
from cslib.data.manifests import Entry, write_set
from cslib.data.utterances import Utterances
from cslib.datasets import augmentation
from cslib.datasets.augmentation import (
    AugmentConfig,
    add_noise,
    augment,
    draw_augmentations,
    draw_channel,
    mix_at_sir,
    reverberate,
    to_float,
)
from cslib.datasets.crops import CropConfig, LabelledCrops
from cslib.datasets.mixtures import MixtureConfig, Mixtures
from cslib.datasets.views import ViewConfig, Views
from cslib.models.layers.levels import at_level

FRAMES = 8000


@pytest.fixture(scope="module")
def banks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    for loudness, kind in enumerate(NOISE_KINDS, start=1):
        with BankWriter(folder / kind, np.int16) as writer:
            for length in (500, 9000, 16000):
                writer.add((rng.standard_normal(length) * 800 * loudness).astype(np.int16))
    with BankWriter(folder / "rirs", np.float32) as writer:
        for length in (400, 3000, 12000):
            writer.add(response(rng, length))
    return open_banks(folder)


def response(rng, length):
    taps = rng.standard_normal(length) * np.exp(-np.arange(length) / (length / 6)) * 0.2
    taps[0] = 1.0
    return taps.astype(np.float32)


def impulse(*shape):
    rir = torch.zeros(shape)
    rir[..., 0] = 1
    return rir


def decibels(signal, noise):
    return 10 * torch.log10(signal.double().square().sum(-1) / noise.double().square().sum(-1))


def random_audio(*shape, seed=0):
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Drawing


@pytest.mark.parametrize("kind", NOISE_KINDS)
def test_snr_of_each_kind_comes_out_as_drawn_and_within_its_range(banks, kind):
    config = AugmentConfig(reverb_p=0, noise_p=1, babble_snr=(10, 12))
    only = Banks(noise={kind: banks.noise[kind]})
    draws = [draw_augmentations(np.random.default_rng(i), only, config, FRAMES) for i in range(16)]
    batch = default_collate(draws)
    speech = random_audio(16, FRAMES)
    degraded = augment(speech, batch)
    assert torch.allclose(decibels(speech, degraded - speech), batch["snr"].double(), atol=0.1)
    low, high = getattr(config, f"{kind}_snr")
    assert low <= batch["snr"].min() < batch["snr"].max() <= high


def test_a_draw_is_a_function_of_the_seed(banks):
    config = AugmentConfig(reverb_p=1, noise_p=1)
    one, same, other = (draw_augmentations(np.random.default_rng([5, i]), banks, config, FRAMES) for i in (1, 1, 2))
    assert one.keys() == same.keys() and all(np.array_equal(one[key], same[key]) for key in one)
    assert not np.array_equal(one["noise"], other["noise"])
    assert one["snr"] != other["snr"]


def test_probabilities_and_kinds_follow_the_configuration(banks):
    config = AugmentConfig(music_weight=0, babble_weight=3, noise_snr=(0, 1), babble_snr=(2, 3))
    rng = np.random.default_rng(0)
    draws = [draw_augmentations(rng, banks, config, 50) for _ in range(2000)]
    snr = np.array([draw["snr"] for draw in draws])
    reverberated = np.array([np.count_nonzero(draw["rir"]) > 1 for draw in draws])
    assert np.isfinite(snr).mean() == pytest.approx(0.7, abs=0.04)
    assert reverberated.mean() == pytest.approx(0.45, abs=0.04)
    assert (np.isinf(snr) & ~reverberated).mean() == pytest.approx(0.55 * 0.3, abs=0.03)
    assert not ((snr > 1) & (snr < 2)).any()
    assert (snr <= 1).sum() / np.isfinite(snr).sum() == pytest.approx(1 / 4, abs=0.04)


def test_empty_banks_leave_speech_exactly_as_it_is():
    draw = draw_augmentations(np.random.default_rng(0), Banks(), AugmentConfig(), FRAMES)
    assert not draw["noise"].any()
    assert math.isinf(draw["snr"])
    speech = random_audio(1, FRAMES)
    assert torch.equal(augment(speech, default_collate([draw])), speech)


def test_zero_weights_mean_no_noise(banks):
    config = AugmentConfig(noise_p=1, noise_weight=0, music_weight=0, babble_weight=0)
    assert math.isinf(draw_augmentations(np.random.default_rng(0), banks, config, 50)["snr"])


def test_rirs_are_cut_and_padded_to_one_length(banks):
    config = AugmentConfig(reverb_p=1, max_rir_seconds=0.1)
    rng = np.random.default_rng(0)
    rirs = [draw_augmentations(rng, banks, config, 50)["rir"] for _ in range(20)]
    assert {len(rir) for rir in rirs} == {1600}
    assert {np.count_nonzero(rir) for rir in rirs} == {400, 1600}


def test_collated_draws_are_a_batch_with_noise_still_in_int16(banks):
    config = AugmentConfig(noise_p=0.5)
    rng = np.random.default_rng(0)
    batch = default_collate([draw_augmentations(rng, banks, config, FRAMES) for _ in range(3)])
    assert {key: (value.dtype, value.shape) for key, value in batch.items()} == {
        "noise": (torch.int16, (3, FRAMES)),
        "snr": (torch.float32, (3,)),
        "rir": (torch.float32, (3, 8000)),
    }


def test_drawing_for_a_three_second_crop_takes_less_than_a_millisecond(banks):
    rng, config = np.random.default_rng(0), AugmentConfig()
    times = []
    for _ in range(50):
        start = time.perf_counter()
        draw_augmentations(rng, banks, config, 48000)
        times.append(time.perf_counter() - start)
    assert np.median(times) < 1e-3


@pytest.mark.parametrize(
    "option", [{"noise_p": 1.5}, {"noise_snr": [9, 3]}, {"music_weight": -1}, {"max_rir_seconds": 0}]
)
def test_impossible_options_are_refused(option):
    with pytest.raises(UserError, match=f"augment.{next(iter(option))}.*must be"):
        from_dict(AugmentConfig, option, "conf.yaml")


# Adding an augmentation


def example():
    """The code in the docstring of the module."""
    lines = augmentation.__doc__.partition("::\n")[2].splitlines()
    return "\n".join(line.removeprefix("    ") for line in lines)


def test_an_augmentation_is_added_in_one_place(banks, monkeypatch, tmp_path):
    """The example of the docstring: every dataset draws its value, and every objective's `augment` applies it."""
    names = {"REVERBERATION": augmentation.REVERBERATION, "NOISE": augmentation.NOISE}
    names |= {"Augmentation": augmentation.Augmentation, "np": np}
    exec(example(), names)
    config = AugmentConfig(noise_p=0, reverb_p=0)
    without = draw_augmentations(np.random.default_rng(0), banks, config, 50)
    monkeypatch.setattr(augmentation, "AUGMENTATIONS", names["AUGMENTATIONS"])
    config.polarity_p = 0.0
    found = draw_augmentations(np.random.default_rng(0), banks, config, 50)
    assert all(np.array_equal(found[key], value) for key, value in without.items()), "at 0 nothing else changes"
    config.polarity_p = 1.0
    utterances = noise_set(tmp_path / "set")
    crops = LabelledCrops(utterances, np.zeros(2, int), banks, CropConfig(seconds=0.1), config, 0)
    views = Views(utterances, banks, ViewConfig(global_seconds=0.1, local_seconds=0.05), config, 0)
    mixtures = Mixtures(utterances, banks, MixtureConfig(crop_seconds=0.1), config, 2, 0, views=1, cell=2, passes=1)
    for dataset, prefix, speech in ((crops, "", "speech"), (mixtures, "", "sources"), (views, "local_", "local")):
        batch = default_collate([dataset[0], dataset[1]])
        assert (batch[prefix + "polarity"] == -1).all()
        dry = to_float(batch[speech])
        assert torch.equal(augment(dry, batch, prefix), -dry)


def noise_set(folder):
    entries = []
    for index in range(2):
        path = folder / f"audio/u{index}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.random.default_rng(index).normal(0, 1000, 4000).astype(np.int16), 16000)
        entries.append(Entry(f"u{index}", path, 4000))
    write_set(folder, entries)
    return Utterances.open(folder)


# Reverberation


def test_reverberation_is_convolution_at_the_level_of_the_input():
    rng = np.random.default_rng(0)
    speech = rng.standard_normal((3, FRAMES)).astype(np.float32)
    rirs = np.stack([response(rng, 2000) for _ in range(3)])
    wet = reverberate(torch.from_numpy(speech), torch.from_numpy(rirs)).numpy()
    expected = fftconvolve(speech.astype(float), rirs.astype(float), axes=1)[:, :FRAMES]
    expected *= np.sqrt((speech**2).sum(1) / (expected**2).sum(1))[:, None]
    assert np.abs(wet - expected).max() < 1e-5


def test_a_late_main_tap_does_not_delay_the_speech():
    rng = np.random.default_rng(0)
    rir = 0.1 * rng.standard_normal(300)
    rir[120] = -2.0
    speech = rng.standard_normal(FRAMES)
    wet = reverberate(torch.from_numpy(speech)[None], torch.from_numpy(rir)[None])[0].numpy()
    expected = fftconvolve(speech, rir)[120 : 120 + FRAMES]
    expected *= np.sqrt((speech**2).sum() / (expected**2).sum())
    assert np.abs(wet - expected).max() < 1e-10


def test_an_rir_longer_than_the_speech_is_allowed():
    rng = np.random.default_rng(0)
    speech, rir = rng.standard_normal(100), rng.standard_normal(700)
    rir[0] = 9.0
    wet = reverberate(torch.from_numpy(speech), torch.from_numpy(rir)).numpy()
    expected = fftconvolve(speech, rir)[:100]
    assert np.allclose(wet, expected * np.sqrt((speech**2).sum() / (expected**2).sum()))


def test_unit_impulse_leaves_the_signal_exactly_unchanged_beside_reverberated_ones():
    rng = np.random.default_rng(0)
    speech = random_audio(4, FRAMES)
    rir = impulse(4, 500)
    rir[1] = torch.from_numpy(response(rng, 500))
    rir[2] = 0  # no RIR at all
    rir[3] = 0.25 * impulse(500).roll(77)  # nothing but a delay and a gain
    wet = reverberate(speech, rir)
    assert torch.equal(wet[[0, 2, 3]], speech[[0, 2, 3]])
    assert (wet[1] - speech[1]).abs().max() > 0.01


def test_snr_is_relative_to_the_reverberated_speech():
    rng = np.random.default_rng(0)
    speech, rir = random_audio(FRAMES), torch.from_numpy(response(rng, 3000))
    noise = (random_audio(FRAMES, seed=1) * 32768).to(torch.int16)
    wet = reverberate(speech, rir)
    degraded = augment(speech, {"noise": noise, "snr": torch.tensor(7.0), "rir": rir})
    assert decibels(wet, degraded - wet).item() == pytest.approx(7, abs=0.01)
    assert decibels(wet, speech).item() == pytest.approx(0, abs=1e-4)


# Noise, mixtures, levels


def test_no_noise_means_exactly_the_same_speech():
    speech, noise = random_audio(2, FRAMES), random_audio(2, FRAMES, seed=1)
    assert torch.equal(add_noise(speech, noise, torch.full((2,), math.inf)), speech)
    assert torch.equal(add_noise(speech, torch.zeros_like(noise), torch.tensor([5.0, math.inf])), speech)


def test_silent_speech_stays_silent():
    rng = np.random.default_rng(0)
    silence, noise = torch.zeros(2, FRAMES), random_audio(2, FRAMES)
    rir = torch.from_numpy(np.stack([response(rng, 800)] * 2))
    batch = {"noise": noise, "snr": torch.tensor([5.0, math.inf]), "rir": rir}
    assert torch.equal(augment(silence, batch), silence)
    assert torch.equal(at_level(silence), silence)


@pytest.mark.parametrize("faint", [1e-12, 1e-22])
def test_signals_too_faint_to_square_stay_finite(faint):
    speech, noise = random_audio(1, FRAMES), faint * random_audio(1, FRAMES, seed=1)
    zero = torch.zeros(1)
    for signal in (
        add_noise(speech, noise, zero),
        add_noise(noise, speech, zero),
        reverberate(noise, torch.ones(1, 4)),
        mix_at_sir(torch.stack([speech, noise], 1), zero[None])[0],
        mix_at_sir(torch.stack([noise, speech], 1), zero[None])[0],
        at_level(noise),
    ):
        assert signal.isfinite().all()


def test_sir_comes_out_as_asked_and_the_sources_add_up():
    sources = random_audio(5, 3, FRAMES) * torch.tensor([1.0, 0.1, 3.0])[:, None]
    sir = torch.tensor([[0.0, 5.0], [-5.0, 12.0], [3.0, 3.0], [20.0, -20.0], [1.5, 0.0]])
    mixture, scaled = mix_at_sir(sources, sir)
    assert torch.equal(scaled[:, 0], sources[:, 0])
    assert torch.allclose(decibels(scaled[:, :1], scaled[:, 1:]), sir.double(), atol=0.01)
    assert torch.allclose(mixture, scaled.sum(1))


def test_mixture_with_silent_or_single_sources():
    sources = random_audio(2, 2, FRAMES)
    sources[0, 1] = 0  # nobody interferes
    sources[1, 0] = 0  # nothing to be relative to
    mixture, scaled = mix_at_sir(sources, torch.zeros(2, 1))
    assert torch.equal(scaled, sources)
    assert torch.equal(mixture[0], sources[0, 0])
    assert torch.equal(mix_at_sir(sources[:, :1], torch.zeros(2, 0))[0], sources[:, 0])


def test_level_is_the_root_mean_square_in_dbfs():
    audio = random_audio(3, FRAMES)
    assert torch.allclose(at_level(audio, -30).square().mean(-1).sqrt(), torch.tensor(10**-1.5))
    wanted = torch.tensor([-20.0, -6.0, 0.0])
    rms = at_level(audio, wanted).square().mean(-1).sqrt()
    assert torch.allclose(20 * rms.log10(), wanted, atol=1e-4)


def test_int16_becomes_float_and_float_stays_as_it_is():
    audio = torch.tensor([-32768, 0, 16384], dtype=torch.int16)
    assert to_float(audio).tolist() == [-1.0, 0.0, 0.5]
    already = torch.randn(4)
    assert to_float(already) is already


# Shapes and devices


def a_batch(*leading):
    rng = np.random.default_rng(0)
    rir = impulse(*leading, 600)
    rir.view(-1, 600)[::2] = torch.from_numpy(response(rng, 600))
    noise = (random_audio(*leading, FRAMES, seed=2) * 32768).to(torch.int16)
    snr = torch.linspace(0, 18, rir[..., 0].numel()).view(leading)
    return random_audio(*leading, FRAMES, seed=1), {"noise": noise, "snr": snr, "rir": rir}


def test_leading_dimensions_are_batch_dimensions():
    speech, batch = a_batch(2, 3)
    alone = [
        augment(speech[b, c], {key: value[b, c] for key, value in batch.items()}) for b in range(2) for c in range(3)
    ]
    assert torch.allclose(augment(speech, batch).view(6, -1), torch.stack(alone), atol=1e-6)


def test_no_gradient_is_kept():
    speech, batch = a_batch(2)
    speech.requires_grad_()
    assert not augment(speech, batch).requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_agrees_with_cpu():
    speech, batch = a_batch(4, 2)
    on_gpu = augment(speech.cuda(), {key: value.cuda() for key, value in batch.items()})
    assert torch.allclose(on_gpu.cpu(), augment(speech, batch), atol=1e-5)
    mixture, _ = mix_at_sir(speech.cuda(), torch.zeros(4, 1).cuda())
    assert torch.allclose(mixture.cpu(), mix_at_sir(speech, torch.zeros(4, 1))[0], atol=1e-5)


def test_channel_has_the_drawn_gain_and_leaves_time_and_energy_alone():
    config = AugmentConfig(channel_p=1.0, channel_db=6.0)
    responses = np.stack([draw_channel(np.random.default_rng(seed), config) for seed in range(200)])
    gains = 20 * np.log10(np.abs(np.fft.rfft(responses, 512)))
    gains -= gains.mean(axis=1, keepdims=True)
    assert gains.std() == pytest.approx(6, abs=1.5)
    speech = torch.from_numpy(np.random.default_rng(0).standard_normal((200, 4000)).astype(np.float32))
    heard = reverberate(speech, torch.from_numpy(responses))
    assert torch.allclose(heard.square().sum(1), speech.square().sum(1), rtol=1e-3)
    # Minimum phase: most of the energy comes at once, so targets stay aligned with what is heard.
    assert (np.square(responses[:, :16]).sum(1) > 0.5 * np.square(responses).sum(1)).mean() > 0.9


def test_without_a_channel_the_crop_is_unchanged():
    speech = torch.randn(3, 400, generator=torch.Generator().manual_seed(0))
    channel = draw_channel(np.random.default_rng(0), AugmentConfig())
    assert torch.equal(reverberate(speech, torch.from_numpy(channel).expand(3, -1)), speech)
