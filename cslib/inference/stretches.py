"""Cut recordings into stretches of speech at their pauses.

Speech is detected by Kaldi's energy VAD, which separates sound from silence: loud noise or music counts as speech.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch

from cslib.config import UserError, require
from cslib.data.manifests import SAMPLE_RATE, Entry
from cslib.files import progress
from cslib.models.layers.features import FRAME_SHIFT, energy_vad, num_frames
from cslib.parallel import in_order

FRAMES_PER_SECOND = SAMPLE_RATE // FRAME_SHIFT
WINDOW = 60 * SAMPLE_RATE  # samples, at most, that the VAD sees at a time

Reader = Callable[[int, int], np.ndarray]  # (start, frames) -> int16 [frames]


@dataclass(frozen=True)
class StretchConfig:
    """Where to cut, in seconds.

    pause     shortest pause at which speech is cut
    shortest  stretches below it are left out
    longest   longer stretches are cut into equal parts
    """

    pause: float = 0.2
    shortest: float = 2.0
    longest: float = 15.0

    def __post_init__(self) -> None:
        require(self.pause >= 0.05, "pause", self.pause, "at least 0.05 s")
        require(self.shortest > 0, "shortest", self.shortest, "above 0 s")
        require(self.longest >= 2 * self.shortest, "longest", self.longest, "at least twice the shortest")


@dataclass
class Pieces:
    """What became of recordings that were cut. `str` gives a sentence.

    silent     (path, reason) of recordings without a piece
    seconds    of the recordings
    kept       seconds in pieces
    short      number of stretches that were too short for a piece
    dropped    seconds in them
    """

    config: StretchConfig
    recordings: int = 0
    pieces: int = 0
    silent: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    kept: float = 0.0
    short: int = 0
    dropped: float = 0.0

    def __str__(self) -> str:
        one = self.config
        return (
            f"{self.recordings:,} recordings ({self.seconds:,.0f} s) cut at pauses of {one.pause:g} s and more into "
            f"{self.pieces:,} pieces of {one.shortest:g} to {one.longest:g} s ({self.kept:,.0f} s); cut away: "
            f"{self.seconds - self.kept - self.dropped:,.0f} s of pauses, and {self.short:,} stretches shorter than "
            f"{one.shortest:g} s ({self.dropped:,.0f} s); {len(self.silent):,} recordings have no piece"
        )


def cut_into_pieces(entries: list[Entry], config: StretchConfig, nj: int, report: Pieces) -> Iterator[Entry]:
    """Yield every stretch of the recordings as an entry of its own, in the order of their ids.

    entries  whole wav or flac files, 16 kHz mono
    nj       number of processes
    report   is filled in
    The id of a piece is that of its recording, "-", and its start in hundredths of a second, in seven digits. No audio
    is copied. Raises UserError when a file cannot be read.
    """
    pieces: list[Entry] = []
    results = in_order(partial(_pieces_of, config=config), entries, nj)
    bar = progress(results, "cutting recordings at pauses", total=len(entries))
    for entry, (found, short) in zip(entries, bar, strict=True):
        report.recordings, report.seconds = report.recordings + 1, report.seconds + entry.num_samples / SAMPLE_RATE
        report.short, report.dropped = report.short + len(short), report.dropped + sum(short) / FRAMES_PER_SECOND
        report.pieces, report.kept = report.pieces + len(found), report.kept + _seconds(found)
        if not found:
            report.silent.append((str(entry.path), f"no piece of {config.shortest:g} s"))
        pieces += found
    yield from sorted(pieces, key=lambda piece: piece.id)


def _pieces_of(entry: Entry, config: StretchConfig) -> tuple[list[Entry], list[int]]:
    """Pieces of a recording, and the lengths of stretches that are too short, in frames."""
    found, short = stretches(speech_of(partial(read_part, entry.path), entry.num_samples), config)
    pieces = []
    for first, last in found:
        start = first * FRAME_SHIFT
        length = min(last * FRAME_SHIFT, entry.num_samples) - start
        name = f"{entry.id}-{first * 100 // FRAMES_PER_SECOND:07d}"
        pieces.append(Entry(name, entry.path, length, start=start, of_samples=entry.num_samples))
    return pieces, short


def _seconds(pieces: list[Entry]) -> float:
    return sum(piece.num_samples for piece in pieces) / SAMPLE_RATE


def read_part(path: Path | str, start: int, frames: int) -> np.ndarray:
    """int16 [frames] of a mono file. Raises UserError when it cannot be read."""
    try:
        return soundfile.read(str(path), frames, start, dtype="int16")[0]
    except (OSError, soundfile.LibsndfileError) as error:
        raise UserError(f"{path}: cannot be read ({error}); copy or record it again") from None


def speech_of(read: Reader, num_samples: int) -> np.ndarray:
    """bool [frames of 10 ms]: where a recording has speech. It is read in equal windows of up to 60 s."""
    frames = num_frames(num_samples)
    if not frames:
        return np.zeros(0, bool)
    edges = np.linspace(0, frames, math.ceil(num_samples / WINDOW) + 1).round().astype(int) * FRAME_SHIFT
    edges[-1] = num_samples
    found = [
        energy_vad(torch.from_numpy(read(int(start), int(end - start)))[None] / 32768)[0].numpy()
        for start, end in zip(edges, edges[1:], strict=False)
    ]
    return np.concatenate(found)


def stretches(speech: np.ndarray, config: StretchConfig) -> tuple[list[tuple[int, int]], list[int]]:
    """(first frame, frame after the last) of each stretch, and the lengths in frames of those that are too short.

    speech  bool [frames]
    """
    pause, shortest, longest = (
        round(value * FRAMES_PER_SECOND) for value in (config.pause, config.shortest, config.longest)
    )
    at = np.flatnonzero(speech)
    if not len(at):
        return [], []
    cuts = np.flatnonzero(np.diff(at) > pause)
    found, short = [], []
    for first, last in zip(at[np.r_[0, cuts + 1]], at[np.r_[cuts, len(at) - 1]] + 1, strict=True):
        if last - first < shortest:
            short.append(int(last - first))
            continue
        edges = np.linspace(first, last, math.ceil((last - first) / longest) + 1).round().astype(int).tolist()
        found += list(zip(edges, edges[1:], strict=False))
    return found, short
