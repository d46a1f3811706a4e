"""Synthetic noises, music-like sounds, and babble mixed from speech."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.signal import lfilter

from cslib.data.manifests import SAMPLE_RATE

_PEAK = 0.5  # of full scale, of all sounds


def draw_noise(rng: np.random.Generator, frames: int) -> np.ndarray:
    """A random noise, int16 [frames] at 16 kHz: steady, fluctuating, humming or knocking."""
    return to_int16(_NOISES[rng.integers(len(_NOISES))](rng, frames))


def draw_music(rng: np.random.Generator, frames: int) -> np.ndarray:
    """A chord progression, strummed or broken, on a random instrument, with drums: int16 [frames] at 16 kHz."""
    tonic = rng.uniform(90, 220)
    beat = int(SAMPLE_RATE * 60 / rng.uniform(70, 150))
    harmonics = rng.uniform(0.3, 1.0, 24) * np.arange(1, 25) ** -rng.uniform(0.6, 1.6)
    decay = rng.uniform(0.15, 1.2)
    scale = np.array([0, 2, 4, 5, 7, 9, 11] if rng.random() < 0.6 else [0, 2, 3, 5, 7, 8, 10])
    broken = rng.random() < 0.6
    drums = rng.uniform(0.0, 0.8)
    music = np.zeros(frames)
    for bar in range(0, frames, 4 * beat):
        degree = int(rng.choice([0, 3, 4, 5]))
        for step in range(8):
            members = [rng.integers(4)] if broken else ([0, 1, 2] if step % 4 == 0 else [])
            for member in members:
                note = degree + 2 * member
                hertz = tonic * 2 ** ((scale[note % 7] + 12 * (note // 7)) / 12)
                _add_note(music, bar + step * beat // 2, hertz, harmonics, decay)
            _add_drum(rng, music, bar + step * beat // 2, drums)
    return to_int16(music)


def mix_babble(rng: np.random.Generator, speakers: Sequence[np.ndarray], frames: int) -> np.ndarray:
    """Several people who speak at once, int16 [frames].

    speakers  int16 [any] each; normalised in level, then up to 6 dB louder or softer; short ones are repeated
    """
    babble = np.zeros(frames)
    for samples in speakers:
        speech = samples.astype(np.float64)
        speech /= max(np.sqrt(np.mean(speech**2)), 1.0)
        place = rng.integers(len(speech)) + np.arange(frames)
        babble += 10 ** (rng.uniform(-6, 6) / 20) * np.take(speech, place, mode="wrap")
    return to_int16(babble)


def coloured(rng: np.random.Generator, frames: int, slope: float, bumps: float = 0.0) -> np.ndarray:
    """Stationary noise, float [frames] of unit power, whose spectrum falls by `slope` dB per octave.

    bumps  dB, standard deviation of a smooth random deviation from that slope
    """
    size = 2 ** int(np.ceil(np.log2(max(frames, 2))))  # rfft of a length with large prime factors is slow
    octaves = np.log2(np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 40.0) / 1000.0)
    knots = np.linspace(octaves[0], octaves[-1], 9)
    shape = 10 ** ((-slope * octaves + np.interp(octaves, knots, bumps * rng.standard_normal(9))) / 20)
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(size)) * shape, size)[:frames]
    return noise / np.sqrt(np.mean(noise**2))


def to_int16(signal: np.ndarray, peak: float = _PEAK) -> np.ndarray:
    """int16, scaled so that the largest magnitude is `peak` of full scale."""
    return np.round(signal * (peak * 32767 / max(np.abs(signal).max(), 1e-9))).astype(np.int16)


def _steady(rng: np.random.Generator, frames: int) -> np.ndarray:
    return coloured(rng, frames, slope=rng.uniform(3, 9), bumps=4.0)


def _fluctuating(rng: np.random.Generator, frames: int) -> np.ndarray:
    hertz = rng.uniform(0.5, 8)
    knots = rng.standard_normal(int(frames / SAMPLE_RATE * 2 * hertz) + 2)
    envelope = np.interp(np.linspace(0, len(knots) - 1, frames), np.arange(len(knots)), knots)
    return _steady(rng, frames) * 10 ** (rng.uniform(3, 9) * envelope / 20)


def _hum(rng: np.random.Generator, frames: int) -> np.ndarray:
    base = rng.choice([50.0, 60.0, rng.uniform(80, 300)])
    time = np.arange(frames) / SAMPLE_RATE
    hum = np.zeros(frames)
    for harmonic in range(1, int(rng.integers(6, 25))):
        strength = rng.exponential() * harmonic ** -rng.uniform(0.3, 1.2)
        hum += strength * np.sin(2 * np.pi * (base * harmonic * time + rng.random()))
    return hum + rng.uniform(0.1, 0.5) * hum.std() * _steady(rng, frames)


def _knocks(rng: np.random.Generator, frames: int) -> np.ndarray:
    knocks = 0.02 * _steady(rng, frames)
    for start in rng.integers(0, frames, rng.poisson(frames / SAMPLE_RATE * rng.uniform(1, 6)) + 1):
        length = min(frames - start, int(SAMPLE_RATE * rng.uniform(0.02, 0.4)))
        pole = rng.uniform(0.9, 0.99) * np.exp(2j * np.pi * rng.uniform(150, 4000) / SAMPLE_RATE)
        burst = lfilter([1.0], np.poly([pole, pole.conj()]).real, rng.standard_normal(length))
        burst *= np.exp(-5 * np.arange(length) / length)
        knocks[start : start + length] += rng.uniform(0.2, 1.0) * burst / np.abs(burst).max()
    return knocks


_NOISES: list[Callable[[np.random.Generator, int], np.ndarray]] = [_steady, _fluctuating, _hum, _knocks]


def _add_note(music: np.ndarray, start: int, hertz: float, harmonics: np.ndarray, decay: float) -> None:
    length = min(len(music) - start, int(3 * decay * SAMPLE_RATE))
    if length <= 0:
        return
    time = np.arange(length) / SAMPLE_RATE
    audible = [k for k in range(1, len(harmonics) + 1) if k * hertz < 0.45 * SAMPLE_RATE]
    note = sum(harmonics[k - 1] * np.sin(2 * np.pi * k * hertz * time) for k in audible)
    music[start : start + length] += note * np.exp(-time / decay) * np.minimum(1.0, time / 0.01)


def _add_drum(rng: np.random.Generator, music: np.ndarray, start: int, strength: float) -> None:
    length = min(len(music) - start, int(0.2 * SAMPLE_RATE))
    if length > 0 and rng.random() < 0.7:
        hit = coloured(rng, length, slope=rng.uniform(0, 6)) * np.exp(-6 * np.arange(length) / length)
        music[start : start + length] += strength * rng.uniform(0.3, 1.0) * hit
