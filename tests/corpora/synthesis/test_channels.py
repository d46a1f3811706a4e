import numpy as np
import pytest

from cslib.corpora.synthesis.channels import draw_channel
from cslib.corpora.synthesis.noises import coloured


def bands(recording: np.ndarray) -> np.ndarray:
    """Levels in 20 bands, dB, without their mean: the shape of the long-term spectrum."""
    power = np.abs(np.fft.rfft(recording.astype(float), 65536)[1:16385]) ** 2
    levels = 10 * np.log10(power.reshape(16, -1).mean(axis=1))
    return levels - levels.mean()


def speechlike(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    bursts = np.repeat(rng.uniform(0, 1, 32) ** 3, 1500)
    return bursts * coloured(rng, len(bursts), 4.0)


def test_two_recordings_of_a_channel_are_more_alike_than_one_recording_over_two_channels():
    one, other = (draw_channel(np.random.default_rng(seed)) for seed in (1, 2))
    rng = np.random.default_rng(0)
    same = np.abs(bands(one.record(rng, speechlike(0))) - bands(one.record(rng, speechlike(1)))).mean()
    different = np.abs(bands(one.record(rng, speechlike(0))) - bands(other.record(rng, speechlike(0)))).mean()
    assert different > 2 * same


def test_level_and_noise_floor_are_the_channels_own():
    rng = np.random.default_rng(0)
    for seed in range(5):
        channel = draw_channel(np.random.default_rng(seed))
        recording = channel.record(rng, speechlike(seed)) / 32768
        assert 20 * np.log10(np.sqrt(np.mean(recording**2))) == pytest.approx(channel.level, abs=0.5)


def test_speech_keeps_its_time_envelope():
    rng = np.random.default_rng(0)
    speech = speechlike(0)
    for seed in range(5):
        recording = draw_channel(np.random.default_rng(seed)).record(rng, speech).astype(float)
        before, after = (np.sqrt((x.reshape(-1, 500) ** 2).mean(axis=1)) for x in (speech, recording))
        assert np.corrcoef(before, after)[0, 1] > 0.8


def test_nothing_clips():
    speech = np.zeros(48000)
    speech[1000] = 1.0  # as peaky as can be
    recording = draw_channel(np.random.default_rng(0)).record(np.random.default_rng(0), speech)
    assert recording.dtype == np.int16 and np.abs(recording.astype(int)).max() < 32767
