"""Voices for a speech synthesiser: each speaker is a random espeak-ng voice variant with an accent.

espeak-ng is a formant synthesiser. A voice variant is a small text file that scales its formants, sets the pitch and
adds breath and roughness; docs/voices.md of espeak-ng explains the keywords. The library and its data come from the
wheel `espeakng_loader`. The data for English (under 2 MB) are copied, because variants must lie inside the data folder
and an installed wheel may be read-only.
"""

from __future__ import annotations

import ctypes
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import espeakng_loader
import numpy as np

ACCENTS = {  # our name: espeak-ng voice
    "american": "en-us",
    "british": "en",
    "scottish": "en-gb-scotland",
    "caribbean": "en-029",
    "received": "en-gb-x-rp",
    "lancaster": "en-gb-x-gbclan",
    "midlands": "en-gb-x-gbcwmd",
    "new-york": "en-us-nyc",
}
_ENGLISH_DATA = ("phondata", "phonindex", "phontab", "intonations", "en_dict")
_SYNCHRONOUS, _DONT_EXIT, _UTF8 = 2, 0x8000, 1  # AUDIO_OUTPUT, espeakINITIALIZE_DONT_EXIT, espeakCHARS_UTF8
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4  # espeak_PARAMETER
_LOUDNESS = 60  # loud voices clip inside espeak-ng at the default of 100


@dataclass(frozen=True)
class Voice:
    """One speaker. Pitches are in Hz; formants 0..8 are in percent of the synthesiser's own."""

    sex: str  # "m" or "f"
    accent: str  # key of ACCENTS
    pitch: tuple[int, int]  # lower and upper end of the intonation
    frequency: tuple[int, ...]  # formant frequencies
    height: tuple[int, ...]  # formant amplitudes
    width: tuple[int, ...]  # formant bandwidths
    breath: tuple[int, ...]  # breath noise at formants 1..8, 0 none
    tone: tuple[int, ...]  # frequency (Hz), amplitude (0..255) pairs: the voice's spectral slope
    roughness: int  # 0..7, creak: every other glottal pulse weaker
    flutter: int  # slow random pitch fluctuation
    voicing: int  # strength of voiced sounds, percent
    consonants: int  # strength of unvoiced sounds, percent
    intonation: int  # tune set 1..4
    rate: int  # words per minute

    def variant(self, name: str) -> str:
        """The text of the espeak-ng voice variant file of this name."""
        formants = zip(self.frequency, self.height, self.width, strict=True)
        lines = [
            "language variant",
            f"name {name}",
            f"gender {'female' if self.sex == 'f' else 'male'}",
            f"pitch {self.pitch[0]} {self.pitch[1]}",
            *(f"formant {i} {f} {h} {w}" for i, (f, h, w) in enumerate(formants)),
            "breath " + " ".join(map(str, self.breath)),
            "tone " + " ".join(map(str, self.tone)),
            f"roughness {self.roughness}",
            f"flutter {self.flutter}",
            f"voicing {self.voicing}",
            f"consonants {self.consonants} {self.consonants}",
            f"intonation {self.intonation}",
        ]
        return "\n".join(lines) + "\n"


def draw_voice(rng: np.random.Generator, sex: str) -> Voice:
    """A random speaker.

    sex  "m" or "f"
    The length of the vocal tract scales all formants together (women's are about 15 % higher), each formant has a small
    deviation of its own, and the rest (slope, breath, creak, tune, rate) varies around ordinary values.
    """
    base = rng.uniform(88, 142) if sex == "m" else rng.uniform(158, 238)
    tract = rng.normal(98, 5.5) if sex == "m" else rng.normal(111, 5.5)
    breathy = rng.uniform(0, 6) if rng.random() < 0.6 else 0.0
    slope = rng.uniform(-1, 1)
    return Voice(
        sex=sex,
        accent=str(rng.choice(list(ACCENTS))),
        pitch=(round(base * rng.uniform(0.86, 0.96)), round(base * rng.uniform(1.15, 1.45))),
        frequency=_around(rng, np.clip(tract, 86, 126), 6.5),
        height=_around(rng, 100, 24),
        width=_around(rng, 105, 18),
        breath=tuple(int(b) for b in np.round(breathy * rng.uniform(0.5, 1.5, 8))),
        tone=_tone(slope),
        roughness=int(rng.choice([0, 0, 1, 2, 3])),
        flutter=int(rng.integers(1, 6)),
        voicing=int(rng.integers(85, 125)),
        consonants=int(rng.integers(70, 130)),
        intonation=int(rng.integers(1, 5)),
        rate=int(rng.integers(145, 190)),
    )


def _tone(slope: float) -> tuple[int, ...]:
    """Frequencies and amplitudes of the spectral slope, -1 (dull) to 1 (bright)."""
    at_1200, at_2400, at_4800 = (round(b + s * slope) for b, s in ((135, 40), (115, 65), (110, 80)))
    return 600, 170, 1200, at_1200, 2400, at_2400, 4800, at_4800


def _around(rng: np.random.Generator, centre: float, deviation: float) -> tuple[int, ...]:
    return tuple(int(v) for v in np.round(np.clip(rng.normal(centre, deviation, 9), 0.6 * centre, 1.4 * centre)))


class Synthesiser:
    """espeak-ng, in this process, with the given voices.

    voices  by the name that `say` takes
    folder  empty folder for the data; the caller removes it

    The library keeps state from one utterance to the next, so its output depends on everything it has said before. To
    reproduce a speaker, start a new process and say the same sentences in the same order.
    Raises RuntimeError when the library cannot start.
    """

    def __init__(self, voices: dict[str, Voice], folder: Path) -> None:
        self.voices = voices
        self._chunks: list[np.ndarray] = []
        self._callback = _CALLBACK(self._receive)  # must outlive every call into the library
        data = _copy_english_data(folder)
        for name, voice in voices.items():
            (data / "voices" / "!v" / name).write_text(voice.variant(name), encoding="ascii")
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self.sample_rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, str(folder).encode(), _DONT_EXIT)
        if self.sample_rate <= 0:
            raise RuntimeError(f"espeak-ng cannot start with the data in {data}")
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # it starts from the time of day

    def say(self, name: str, text: str, rate: float = 1.0, pitch: int = 50, pitch_range: int = 50) -> np.ndarray:
        """Say `text` with the voice `name`: int16 [n] at `sample_rate`.

        rate         factor on the voice's own words per minute
        pitch        0..100; 50 is the voice's own
        pitch_range  0..100; 50 is the voice's own
        Raises RuntimeError when the library refuses.
        """
        voice = self.voices[name]
        if self._library.espeak_SetVoiceByName(f"{ACCENTS[voice.accent]}+{name}".encode()) != 0:
            raise RuntimeError(f"espeak-ng has no voice {ACCENTS[voice.accent]}")
        words_per_minute = round(voice.rate * rate)
        settings = [(_RATE, words_per_minute), (_VOLUME, _LOUDNESS), (_PITCH, pitch), (_RANGE, pitch_range)]
        for parameter, value in settings:
            self._library.espeak_SetParameter(parameter, value, 0)
        self._chunks = []
        raw = text.encode() + b"\0"
        status = self._library.espeak_Synth(raw, len(raw), 0, 1, 0, _UTF8, None, None)
        if status != 0 or not self._chunks:
            raise RuntimeError(f"espeak-ng said nothing for {text!r} (status {status})")
        return np.concatenate(self._chunks)

    def _receive(self, samples: Any, count: int, events: int | None) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def _copy_english_data(folder: Path) -> Path:
    source, data = Path(espeakng_loader.get_data_path()), folder / "espeak-ng-data"
    (data / "voices" / "!v").mkdir(parents=True)
    (data / "lang").mkdir()
    for name in _ENGLISH_DATA:
        shutil.copyfile(source / name, data / name)
    for file in (source / "lang" / "gmw").glob("en*"):
        shutil.copyfile(file, data / "lang" / file.name)
    return data
