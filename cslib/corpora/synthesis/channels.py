"""Recording channels: the microphone, the room and the noise that all utterances of one session share.

Two recordings of one session sound alike for reasons that have nothing to do with who speaks. That is the
main difficulty of learning speakers without labels, so a made-up corpus has to have it.
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
    """One session's recording conditions."""

    microphone: np.ndarray  # FIR response [taps], linear phase
    rir: np.ndarray  # float32 [n], main tap first
    level: float  # dB of full scale, RMS of the speech
    noise_level: float  # dB relative to the speech
    noise_slope: float  # dB per octave

    def record(self, rng: np.random.Generator, speech: np.ndarray) -> np.ndarray:
        """int16 [n] of `speech` ([n] at 16 kHz, any scale) as this channel hears it."""
        heard = fftconvolve(speech, self.rir)[: len(speech)]
        heard = heard / np.sqrt(np.mean(heard**2))
        heard += 10 ** (self.noise_level / 20) * coloured(rng, len(heard), self.noise_slope, bumps=3.0)
        heard = fftconvolve(heard, self.microphone, mode="same")
        heard *= 10 ** (self.level / 20) / np.sqrt(np.mean(heard**2))
        loudest = np.abs(heard).max()
        return np.round(heard * 32767 * min(1.0, 0.98 / loudest)).astype(np.int16)


def draw_channel(rng: np.random.Generator) -> Channel:
    """A random microphone in a random room; mild enough that the speech stays clear."""
    return Channel(
        microphone=_microphone(rng),
        rir=draw_rir(rng, rt60=rng.uniform(0.1, 0.35), distance=(0.15, 1.0)),
        level=rng.uniform(-32, -18),
        noise_level=rng.uniform(-36, -12),
        noise_slope=rng.uniform(1, 8),
    )


def _microphone(rng: np.random.Generator) -> np.ndarray:
    """Tilt, band limits and a smooth random deviation of the frequency response."""
    hertz = np.linspace(0, SAMPLE_RATE / 2, 257)
    octaves = np.log2(np.maximum(hertz, 50.0) / 1000.0)
    low, high = 10 ** rng.uniform(1.7, 2.4), rng.uniform(4500, 8000)
    gain = rng.uniform(-3, 3) * octaves
    gain += np.interp(octaves, np.linspace(octaves[0], octaves[-1], 9), 3.0 * rng.standard_normal(9))
    gain -= 12 * np.maximum(0, np.log2(low / np.maximum(hertz, 20.0)))
    gain -= 36 * np.maximum(0, np.log2(np.maximum(hertz, 20.0) / high))
    return firwin2(255, hertz, 10 ** (np.clip(gain, -60, 20) / 20), fs=SAMPLE_RATE)
