"""Synthetic speakers: what a process needs to synthesise one, and the sentences they say."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

from cslib.corpora.synthesis.sentences import draw_sentence
from cslib.corpora.synthesis.voices import Synthesiser
from cslib.data.manifests import SAMPLE_RATE
from cslib.files import writing

SHORTEST, LONGEST = 3.0, 6.0  # seconds
WORDS = (11, 18)  # in a sentence; most of these last 3 to 6 seconds


@dataclass(frozen=True)
class Speaker:
    """What a process needs to synthesise all recordings of one speaker.

    name      in speakers.tsv
    sex       "f" or "m"
    seed      of the voice and of everything else that is drawn for this speaker
    audio     folder for the recordings
    sessions  ids of the utterances, by session
    """

    name: str
    sex: str
    seed: tuple[int, ...]
    audio: Path
    sessions: list[list[str]]


def say_sentence(
    rng: np.random.Generator, synthesiser: Synthesiser, rate: float, pitch: int, ranges: tuple[int, int] = (40, 60)
) -> np.ndarray:
    """Draw random sentences until one lasts 3 to 6 seconds; return it as float [n] in [-1, 1] at 16 kHz.

    synthesiser  with a voice called "speaker"
    rate         factor on the voice's own speaking rate
    pitch        0..100; 50 is the voice's own
    ranges       lowest and highest pitch range, drawn uniformly; 50 is the voice's own
    Raises RuntimeError after a hundred sentences of another length.
    """
    for _ in range(100):
        text = draw_sentence(rng, *WORDS)
        speech = synthesiser.say("speaker", text, rate, pitch, pitch_range=int(rng.integers(ranges[0], ranges[1] + 1)))
        if SHORTEST <= len(speech) / synthesiser.sample_rate <= LONGEST:
            factor = gcd(SAMPLE_RATE, synthesiser.sample_rate)
            return resample_poly(speech / 32768, SAMPLE_RATE // factor, synthesiser.sample_rate // factor)
    raise RuntimeError("none of a hundred sentences has a fitting length")


def write_speech(path: Path, speech: np.ndarray) -> Path:
    """Write int16 [n] at 16 kHz as FLAC; return the path. Raises UserError when it cannot be written."""
    with writing(path) as temporary:
        soundfile.write(temporary, speech, SAMPLE_RATE, "PCM_16", format="FLAC")
    return path
