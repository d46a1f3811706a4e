"""The convolutional-recurrent network: its size, and the look-ahead of the causal one.

What it shares with other enhancement networks is in test_spectra.py.
"""

import pytest
import torch

from cslib.config import UserError
from cslib.models.crn import Config, Down, Up, build

TINY = {"channels": [4, 6, 8], "recurrent_blocks": 1}


def noise(*shape, seed=1):
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(**values):
    torch.manual_seed(0)
    model = build(Config(**{**TINY, **values}))
    model(noise(3, 4000))  # batch norms that have seen data
    return model.eval()


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("channels", [[16, 32, 48, 64], [8, 16, 16, 24]])
@pytest.mark.parametrize("causal", [False, True])
def test_parameter_count_follows_from_the_architecture(channels, causal):
    widths, last = [3, *channels], channels[-1]
    kernel, norm_and_prelu = 3 * 5, 3
    encoder = sum(kernel * a * b + norm_and_prelu * b for a, b in zip(widths, widths[1:], strict=False))
    decoder = sum(kernel * 2 * b * a + norm_and_prelu * a for a, b in zip(channels, channels[1:], strict=False))
    mask = kernel * 2 * channels[0] * 2 + 2

    def gru(hidden, directions):
        return directions * 3 * hidden * (last + hidden + 2)  # torch keeps two biases per gate

    along = gru(last, 1) if causal else gru(last // 2, 2)
    block = gru(last // 2, 2) + along + 2 * (last * last + last + 2 * last)
    total = parameters(build(Config(channels=channels, causal=causal)))
    assert total == encoder + decoder + mask + 2 * block
    assert channels[-1] == 24 or 200_000 < total < 800_000


@pytest.mark.parametrize("window, hop", [(512, 128), (400, 100)])
def test_causal_network_looks_ahead_by_one_window_less_one_sample(window, hop):
    model, audio = network(causal=True, window=window, hop=hop), noise(1, 6000)
    expected = model(audio)
    look_ahead = window - 1  # samples
    for change in (1000, 1001, 3333, 5999):
        for gain in (30.0, 0.0):  # a future that is louder, or not there
            other = audio.clone()
            other[:, change:] = gain * noise(1, 6000 - change, seed=2)
            found = model(other)
            blind = max(0, change - look_ahead)
            torch.testing.assert_close(found[:, :blind], expected[:, :blind], atol=1e-7, rtol=1e-5)
            assert (found - expected)[:, blind:change].abs().max() > 1e-5, "the look-ahead is used"


def test_causal_network_does_not_depend_on_the_length_of_a_recording():
    model, audio = network(causal=True), noise(1, 6000)
    torch.testing.assert_close(
        model(audio[:, :3000])[:, : 3000 - 511], model(audio)[:, : 3000 - 511], atol=1e-7, rtol=1e-5
    )


def test_causal_network_does_not_look_ahead_across_windows():
    model, audio = network(causal=True, window_seconds=0.2), noise(1, 8000)
    other, change = audio.clone(), 5000
    other[:, change:] *= -3
    blind = change - 511
    torch.testing.assert_close(model.enhance(other)[:, :blind], model.enhance(audio)[:, :blind], atol=1e-7, rtol=1e-5)


def test_network_that_is_not_causal_depends_on_the_future():
    model, audio = network(), noise(1, 6000)
    other = audio.clone()
    other[:, 5000:] *= -3
    assert (model(other) - model(audio))[:, :1000].abs().max() > 1e-5


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bands", [257, 201, 26, 13, 2])
def test_each_stage_of_the_decoder_restores_the_bands_of_the_encoder(bands, causal):
    x = noise(2, 3, 7, bands)
    down = Down(3, 5, causal)(x)
    assert down.shape == (2, 5, 7, (bands + 1) // 2)
    assert Up(5, 3, bands, causal, last=False)(down).shape == x.shape


def test_frames_stay_aligned():
    x = torch.zeros(1, 1, 9, 5)
    x[:, :, 4] = 1
    for causal, reached in ((True, [4, 5, 6]), (False, [3, 4, 5])):
        down, up = Down(1, 1, causal), Up(1, 1, 5, causal, last=True)
        torch.nn.init.ones_(down.convolution.weight)
        torch.nn.init.ones_(up.convolution.weight)
        torch.nn.init.zeros_(up.convolution.bias)
        assert down.eval()(x)[0, 0, :, 1].nonzero().flatten().tolist() == reached
        assert up(x[..., :3])[0, 0, :, 1].nonzero().flatten().tolist() == reached


@pytest.mark.parametrize(
    "values", [{"channels": []}, {"channels": [4, 5]}, {"channels": [0, 4]}, {"recurrent_blocks": -1}]
)
def test_a_wrong_configuration_is_refused(values):
    with pytest.raises(UserError, match=r"network\..* must be"):
        build(Config(**values))
