import numpy as np
import pytest

from cslib.corpora.synthesis.noises import _NOISES, coloured, draw_music, draw_noise, mix_babble


@pytest.mark.parametrize("slope", [0.0, 3.0, 6.0])
def test_coloured_noise_falls_by_its_slope(slope):
    noise = coloured(np.random.default_rng(0), 160000, slope)
    power = np.abs(np.fft.rfft(noise)) ** 2
    hertz = np.fft.rfftfreq(len(noise), 1 / 16000)
    octaves = [10 * np.log10(power[(hertz > f) & (hertz < 1.1 * f)].mean()) for f in (500, 1000, 2000, 4000)]
    np.testing.assert_allclose(np.diff(octaves), -slope, atol=1.0)
    assert np.mean(noise**2) == pytest.approx(1.0)


@pytest.mark.parametrize("draw", [draw_noise, draw_music])
def test_sounds_are_loud_unclipped_and_reproducible(draw):
    for seed in range(8):
        sound = draw(np.random.default_rng(seed), 20000)
        assert sound.dtype == np.int16 and len(sound) == 20000
        assert np.abs(sound.astype(int)).max() == pytest.approx(16384, abs=2)
        np.testing.assert_array_equal(sound, draw(np.random.default_rng(seed), 20000))


def test_kinds_of_noise_differ_in_how_steady_they_are():
    def unsteadiness(noise):
        power = (noise[: len(noise) // 800 * 800].reshape(-1, 800) ** 2).mean(axis=1)
        return np.std(10 * np.log10(power + 1e-12))

    steady, fluctuating, _, knocks = (unsteadiness(kind(np.random.default_rng(3), 80000)) for kind in _NOISES)
    assert steady < fluctuating and steady < knocks


def test_babble_holds_all_speakers_within_six_decibels():
    rng = np.random.default_rng(0)
    time = np.arange(32000) / 16000
    speakers = [(1000 * k * np.sin(2 * np.pi * 400 * k * time)).astype(np.int16) for k in (1, 2, 3)]
    spectrum = np.abs(np.fft.rfft(mix_babble(rng, speakers, 16000)))
    levels = 20 * np.log10([spectrum[400 * k] for k in (1, 2, 3)])
    assert np.ptp(levels) <= 12.1
    assert spectrum[200] < 0.01 * spectrum[400]


def test_short_speakers_are_repeated():
    babble = mix_babble(np.random.default_rng(0), [np.array([100, -100], np.int16)], 1000)
    assert (np.abs(babble) > 0).all()
