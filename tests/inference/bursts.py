"""Recordings of made-up voices: noise through a filter of the voice's own, in bursts with pauses between."""

import numpy as np
from scipy.signal import lfilter

RATE = 16_000


def voice(number: int) -> np.ndarray:
    """Denominator of a filter with three resonances."""
    rng = np.random.default_rng([7, number])
    poles = 0.97 * np.exp(1j * np.pi * rng.uniform(0.02, 0.6, 3))
    return np.poly(np.concatenate([poles, poles.conj()])).real


def burst(number: int, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """int16 [n] of one voice."""
    samples = lfilter([1.0], voice(number), rng.standard_normal(round(seconds * RATE)))
    return (samples / np.abs(samples).max() * 9000).astype(np.int16)


def recording(voices: list[int], seed: int, seconds: float = 3.0, pause: float = 0.5) -> np.ndarray:
    """int16 [n]: a burst of each voice in turn, with a pause of faint noise before each."""
    rng = np.random.default_rng(seed)
    parts = []
    for number in voices:
        parts += [rng.normal(0, 3, round(pause * RATE)).astype(np.int16), burst(number, seconds, rng)]
    return np.concatenate(parts)
