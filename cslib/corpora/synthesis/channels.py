"""Recording channels: microphone, room and noise, which all utterances of a session share.

Recordings of one session sound alike for reasons other than the speaker. That is the main difficulty of learning
speakers without labels, so a synthetic corpus must have it too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.signal import fftconvolve, firwin2

from cslib.corpora.synthesis.noises import coloured
from cslib.corpora.synthesis.rirs import draw_rir
from cslib.data.manifests import SAMPLE_RATE


@dataclass(frozen=True)
class Channel:
    """The recording conditions of one session.

    microphone   FIR response [taps], linear phase
    rir          float32 [n], main tap first
    level        RMS of the recording, dB of full scale
    noise_level  dB relative to the speech
    noise_slope  dB per octave, by which the noise falls
    """

    microphone: np.ndarray
    rir: np.ndarray
    level: float
    noise_level: float
    noise_slope: float

    def record(self, rng: np.random.Generator, speech: np.ndarray) -> np.ndarray:
        """Record speech, [n] at 16 kHz at any scale, through this channel: int16 [n]."""
        heard = fftconvolve(speech, self.rir)[: len(speech)]
        heard = heard / np.sqrt(np.mean(heard**2))
        heard += 10 ** (self.noise_level / 20) * coloured(rng, len(heard), self.noise_slope, bumps=3.0)
        heard = fftconvolve(heard, self.microphone, mode="same")
        heard *= 10 ** (self.level / 20) / np.sqrt(np.mean(heard**2))
        loudest = np.abs(heard).max()
        return np.round(heard * 32767 * min(1.0, 0.98 / loudest)).astype(np.int16)


def draw_channel(rng: np.random.Generator) -> Channel:
    """A random microphone in a random room, mild enough that the speech stays clear."""
    return Channel(
        microphone=_microphone(rng),
        rir=draw_rir(rng, rt60=rng.uniform(0.1, 0.35), distance=(0.15, 1.0)),
        level=rng.uniform(-32, -18),
        noise_level=rng.uniform(-36, -12),
        noise_slope=rng.uniform(1, 8),
    )


def _microphone(rng: np.random.Generator) -> np.ndarray:
    """A frequency response with tilt, band limits and a smooth random deviation."""
    hertz = np.linspace(0, SAMPLE_RATE / 2, 257)
    octaves = np.log2(np.maximum(hertz, 50.0) / 1000.0)
    low, high = 10 ** rng.uniform(1.7, 2.4), rng.uniform(4500, 8000)
    gain = rng.uniform(-3, 3) * octaves
    gain += np.interp(octaves, np.linspace(octaves[0], octaves[-1], 9), 3.0 * rng.standard_normal(9))
    gain -= 12 * np.maximum(0, np.log2(low / np.maximum(hertz, 20.0)))
    gain -= 36 * np.maximum(0, np.log2(np.maximum(hertz, 20.0) / high))
    return firwin2(255, hertz, 10 ** (np.clip(gain, -60, 20) / 20), fs=SAMPLE_RATE)
