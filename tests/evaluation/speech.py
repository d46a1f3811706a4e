"""Something like speech, clean and with noise: real recordings are not for the project to pass on."""

from importlib.util import find_spec

import numpy as np
import pytest
from scipy.signal import lfilter

RATE = 16000
needs_pesq = pytest.mark.skipif(find_spec("pesq") is None, reason="pesq is not installed: it could not be compiled")
FORMANTS = ((700, 1100, 2500), (300, 2200, 2900), (500, 900, 2400), (400, 1900, 2600))  # Hz


def talk(seed: int = 0, seconds: float = 2.0) -> np.ndarray:
    """float64 in [-1, 1]: four syllables a second, vowels and hiss in turn, a quiet room between them."""
    rng = np.random.default_rng(seed)
    size, syllable = round(seconds * RATE), RATE // 4
    speech = np.zeros(size)
    for number, start in enumerate(range(0, size - syllable + 1, syllable)):
        if number % 8 == 6:
            continue  # a pause
        pulses = (np.arange(syllable) % round(RATE / rng.uniform(100, 180)) == 0).astype(float)
        sound = 0.1 * rng.standard_normal(syllable) if number % 4 == 3 else pulses
        for hertz in FORMANTS[number % 4]:
            sound = lfilter([1], [1, -1.94 * np.cos(2 * np.pi * hertz / RATE), 0.94], sound)
        speech[start : start + syllable] = rng.uniform(0.3, 1) * np.hanning(syllable) * sound / np.abs(sound).max()
    return 0.5 * speech + 3e-4 * rng.standard_normal(size)


def noisy(clean: np.ndarray, snr: float = 5.0, seed: int = 100) -> np.ndarray:
    """The recording in noise that falls by 6 dB an octave above 1 kHz, `snr` dB below it."""
    noise = lfilter([1], [1, -0.68], np.random.default_rng(seed).standard_normal(len(clean)))
    return clean + noise * np.sqrt(np.mean(clean**2) / np.mean(noise**2) / 10 ** (snr / 10))


def pcm(signal: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(32768 * signal), -32768, 32767).astype(np.int16)
