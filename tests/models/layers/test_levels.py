"""Level functions: the level they set, silence, and what the gain is measured on."""

import pytest
import torch

from cslib.models.layers.levels import LEVEL_DBFS, LEVEL_RMS, at_level, at_level_inside, at_level_of_first

STEP = 1 / 32768  # of 16-bit audio


def noise(*shape):
    return 0.01 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


def rms(audio):
    return audio.square().mean(-1).sqrt()


def alone(audio):
    """Audio [B, T] at the same level by each of the functions."""
    lengths = torch.full((len(audio),), audio.shape[1])
    return at_level(audio), at_level_of_first(audio[:, None])[:, 0], at_level_inside(audio, lengths)


def test_each_brings_audio_to_the_level():
    audio = noise(3, 4000) * torch.tensor([[1.0], [1e-2], [30.0]])
    for found in alone(audio):
        torch.testing.assert_close(rms(found), torch.full((3,), LEVEL_RMS))
    assert torch.tensor(LEVEL_RMS).log10().item() * 20 == pytest.approx(LEVEL_DBFS)


def test_each_leaves_silence_as_it_is():
    assert not any(found.any() for found in alone(torch.zeros(2, 100)))


def test_one_gain_is_for_all_signals_of_an_item_and_comes_from_the_first():
    signals = noise(2, 3, 4000) * torch.tensor([1.0, 0.1, 5.0])[:, None]
    found = at_level_of_first(signals)
    torch.testing.assert_close(rms(found[:, 0]), torch.full((2,), LEVEL_RMS))
    torch.testing.assert_close(found / found[:, :1], signals / signals[:, :1])


def test_padding_is_left_out_of_the_level():
    audio, lengths = noise(2, 4000), torch.tensor([4000, 1000])
    audio[1, 1000:] = 0
    found = at_level_inside(audio, lengths)
    torch.testing.assert_close(found[1:, :1000], at_level_inside(audio[1:, :1000], lengths[1:]))
    torch.testing.assert_close(rms(found[1, :1000]), torch.tensor(LEVEL_RMS))


def test_thresholds_of_silence_differ():
    """A single 16-bit step in 4,000 samples has an RMS of 5e-7."""
    audio = torch.zeros(1, 4000)
    audio[0, 0] = STEP
    by_energy, by_first, inside = alone(audio)
    assert by_energy.max() > 3 and inside.max() > 3
    assert torch.equal(by_first, audio)


def test_only_the_level_of_training_data_is_without_gradient():
    audio = noise(2, 100).requires_grad_()
    assert [found.requires_grad for found in alone(audio)] == [False, True, True]
