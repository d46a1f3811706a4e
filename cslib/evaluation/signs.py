"""Signs of what a recording is like, measured without labels: is it like the recordings behind a threshold?

A threshold holds for recordings like those it was estimated from. Four measures tell others from them:

speech_seconds  seconds of speech: little speech gives unreliable embeddings
bandwidth       Hz: telephone speech, also when it was upsampled, has nothing above 4 kHz
snr             dB: level of the loud frames over that of the quiet ones. It falls with noise, and in sound without
                pauses, such as music
halves          cosine of the embeddings of the first and the second half: low with two speakers, changing noise, or
                sound that is not speech

The measures are simple and see no meaning. A recording in another language or of a child can pass all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cslib.data.manifests import SAMPLE_RATE
from cslib.models.layers.features import FFT_SIZE, FRAME_LENGTH, PREEMPHASIS, frame, log_energy

LEVELS = (0.005, 0.05, 0.5, 0.95, 0.995)  # of the quantiles that are kept
ABOVE = 10**-4.5  # share of the energy above the bandwidth, after pre-emphasis
LOUD, QUIET = 0.95, 0.10  # quantiles of the frames' levels
CLEANEST = 60.0  # dB; digital silence between words makes the level of quiet frames arbitrary
MANY = 200  # recordings; of fewer, the outer quantiles are little more than the extremes
REACH = 1.6  # 0.5 % of a normal distribution lies 1.6 times as far from the median as 5 % does
SLACK = {"speech_seconds": 0.1, "bandwidth": 500.0, "snr": 1.0}  # differences too small to matter


@dataclass(frozen=True)
class Signs:
    """The measures of one recording, described above."""

    speech_seconds: float
    bandwidth: float
    snr: float
    halves: float


def bandwidth(audio: Tensor, voiced: Tensor) -> float:
    """The frequency in Hz above which the speech has less than `ABOVE` of its energy, after pre-emphasis.

    audio   [1, T] in [-1, 1] at 16 kHz
    voiced  bool [frames], as `energy_vad` returns them; at least one is true
    """
    frames = frame(audio)[0][voiced] * torch.hann_window(FRAME_LENGTH)
    power = torch.fft.rfft(frames, n=FFT_SIZE).abs().square().double().mean(0).numpy()
    hertz = np.arange(len(power)) * SAMPLE_RATE / FFT_SIZE
    power *= np.abs(1 - PREEMPHASIS * np.exp(-2j * np.pi * hertz / SAMPLE_RATE)) ** 2
    above = np.cumsum(power[::-1])[::-1]
    return float(hertz[np.flatnonzero(above >= ABOVE * above[0])[-1]])


def snr(audio: Tensor) -> float:
    """A rough signal-to-noise ratio in dB, at most `CLEANEST`, of audio [1, T]: loud frames over quiet ones."""
    loud, quiet = np.quantile(log_energy(audio)[0].double().numpy(), (LOUD, QUIET))
    return min(10 / np.log(10) * float(loud - quiet), CLEANEST)


def distributions(measured: Sequence[Signs]) -> dict[str, Any]:
    """What a calibration keeps of its recordings: their number, and of each sign the quantiles at `LEVELS`."""
    return {"recordings": len(measured), "levels": list(LEVELS)} | {
        name: np.quantile([getattr(one, name) for one in measured], LEVELS).round(4).tolist() for name in NAMES
    }


def valid(known: Any) -> bool:
    """Whether `known` is what `distributions` returns."""
    return (
        isinstance(known, dict)
        and isinstance(known.get("recordings"), int)
        and known.get("levels") == list(LEVELS)
        and all(
            isinstance(known.get(name), list)
            and len(known[name]) == len(LEVELS)
            and all(isinstance(value, (int, float)) for value in known[name])
            for name in NAMES
        )
    )


def limits(known: dict[str, Any], name: str) -> tuple[float, float]:
    """The usual range of a sign: of recordings like those of the calibration, 0.5 % lie below it and 0.5 % above.

    With fewer than `MANY` recordings the range is widened to what follows from the 5 % quantiles of a normal
    distribution, where that is wider.
    """
    lowest, low, middle, high, highest = known[name]
    if known["recordings"] < MANY:
        lowest = min(lowest, middle - REACH * (middle - low))
        highest = max(highest, middle + REACH * (high - middle))
    slack = SLACK.get(name, 0.0)
    return lowest - slack, highest + slack


def differences(signs: Signs, known: dict[str, Any]) -> list[str]:
    """How a recording differs from those of a calibration, a clause for each sign; empty when it does not.

    known   what `distributions` returned for the recordings of the calibration
    """
    found = []
    for name, (low_words, high_words, text) in WORDS.items():
        value, (low, high) = getattr(signs, name), limits(known, name)
        words = low_words if value < low else high_words if value > high else ""
        if words:
            found.append(f"{words.format(text(value))}; usual are {_usual(text, low, high, bool(high_words))}")
    return found


def _usual(text: Any, low: float, high: float, bounded: bool) -> str:
    return f"{text(low)} to {text(high)}" if bounded else f"at least {text(low)}"


def _seconds(value: float) -> str:
    return f"{max(value, 0):.1f} s"


def _kilohertz(value: float) -> str:
    return f"{min(value, SAMPLE_RATE / 2) / 1000:.1f} kHz"


def _decibel(value: float) -> str:
    return f"{value:.0f} dB"


def _cosine(value: float) -> str:
    return f"{max(value, -1):.2f}"


NAMES = tuple(field.name for field in fields(Signs))
# Of each sign: what it means when it is too low and, if that matters, too high; and how a value is written.
WORDS = {
    "speech_seconds": ("only {} of speech", "", _seconds),
    "bandwidth": ("no sound above {}, as from a telephone", "sound up to {}", _kilohertz),
    "snr": ("noise, or sound without pauses: SNR about {}", "less noise: SNR about {}", _decibel),
    "halves": ("its two halves score only {} with each other", "", _cosine),
}
