"""Pairs of a noisy recording and the clean speech in it, whole or in part.

    data/<corpus>/<set>/clean/    a set like any other (see cslib/data/manifests.py)
    data/<corpus>/<set>/noisy/    another set, with the same ids and lengths
    data/<corpus>/<set>/pairs.tsv id, signal-to-noise ratio in dB and kind of noise; "-" where unknown

Recordings enhanced beforehand can serve as negatives: K folders of <id>.wav or <id>.flac, one for every id of the set
and as long as the recording it was made from. All versions in an item or a batch cover the same part of a recording.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from torch.utils.data import DataLoader, Dataset

from cslib.config import UserError
from cslib.data.batches import batches_by_length
from cslib.data.manifests import SAMPLE_RATE
from cslib.data.utterances import Utterances, excerpts
from cslib.files import write_lines

SIDES = ("clean", "noisy")
ENHANCED_SUFFIXES = (".wav", ".flac")


class PairedUtterances:
    """Noisy recordings with their clean speech and K enhanced versions, in the order of the manifest.

    num_samples  int32 [n], memory-mapped: the length of each recording at 16 kHz
    """

    def __init__(self, noisy: Utterances, clean: Utterances, enhanced: Sequence[EnhancedFolder] = ()) -> None:
        self.noisy, self.clean, self.enhanced = noisy, clean, list(enhanced)
        self.num_samples = noisy.num_samples

    @classmethod
    def open(cls, folder: Path | str, negatives: Iterable[Path | str] = ()) -> PairedUtterances:
        """Open data/<corpus>/<set>, with the K folders `negatives` of enhanced recordings.

        Raises UserError when a side is missing, when the sides differ in ids or lengths, or when an enhanced
        recording is missing. (One of a wrong length is refused when it is read.)
        """
        clean, noisy = (Utterances.open(Path(folder) / side) for side in SIDES)
        _refuse_mispaired(Path(folder), clean, noisy)
        return cls(noisy, clean, [EnhancedFolder.open(Path(path), noisy.ids()) for path in negatives])

    def __len__(self) -> int:
        return len(self.noisy)

    def id(self, row: int) -> str:
        """Id of one pair."""
        return self.noisy.id(row)

    def ids(self, rows: Iterable[int] | None = None) -> list[str]:
        """Ids of the pairs `rows`, or of all."""
        return self.noisy.ids(rows)

    def read(self, row: int, start: int = 0, frames: int | None = None) -> np.ndarray:
        """int16 [2 + K, frames]: noisy, clean and enhanced, from sample `start` on (`frames` None: to the end).

        Raises UserError when a file is missing, damaged, of another length than listed or not 16 kHz mono.
        """
        length = int(self.num_samples[row])
        frames = length - start if frames is None else frames
        sides = [side.read(row, start, frames) for side in (self.noisy, self.clean)]
        return np.stack(sides + [folder.read(self.id(row), length, start, frames) for folder in self.enhanced])

    def digest(self) -> str:
        """A SHA-256 of ids, lengths and excerpts of all 2 + K versions, as 64 hexadecimal digits.

        Other noise, other clean speech or another enhancing network give another digest; see `Utterances.digest`.
        Raises UserError as `read` does.
        """
        digest = hashlib.sha256((self.noisy.digest() + self.clean.digest()).encode())
        for folder in self.enhanced:
            for row, start, frames in excerpts(self.num_samples):
                digest.update(folder.read(self.id(row), int(self.num_samples[row]), start, frames).tobytes())
        return digest.hexdigest()


def _refuse_mispaired(folder: Path, clean: Utterances, noisy: Utterances) -> None:
    ids = {side: utterances.ids() for side, utterances in (("clean", clean), ("noisy", noisy))}
    if ids["clean"] != ids["noisy"]:
        name = min(set(ids["clean"]) ^ set(ids["noisy"]))
        has, lacks = SIDES if name in set(ids["clean"]) else reversed(SIDES)
        raise UserError(f"{folder}: {name} is in {has} and not in {lacks}; prepare the pairs again")
    unequal = np.flatnonzero(clean.num_samples != noisy.num_samples)
    if len(unequal):
        row = int(unequal[0])
        raise UserError(
            f"{folder}: {noisy.id(row)} has {noisy.num_samples[row]:,} samples in noisy and "
            f"{clean.num_samples[row]:,} in clean; fix or remove the pair and prepare the pairs again"
        )


@dataclass(frozen=True)
class EnhancedFolder:
    """Recordings that a network enhanced, in files named by their ids.

    folder  absolute path
    suffix  of all files, ".wav" or ".flac"
    """

    folder: Path
    suffix: str

    @classmethod
    def open(cls, folder: Path, ids: Iterable[str]) -> EnhancedFolder:
        """Open a folder; other files in it do no harm. Raises UserError when it lacks a recording of some id."""
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder of enhanced recordings; check the path")
        names, ids = set(os.listdir(folder)), list(ids)
        suffix = next((suffix for suffix in ENHANCED_SUFFIXES if f"{ids[0]}{suffix}" in names), ENHANCED_SUFFIXES[0])
        missing = [name for name in ids if f"{name}{suffix}" not in names]
        if missing:
            raise UserError(
                f"{folder}: lacks {len(missing):,} of {len(ids):,} recordings, for one "
                f"{missing[0]}{suffix}; enhance the whole set"
            )
        return cls(folder.absolute(), suffix)

    def read(self, name: str, length: int, start: int, frames: int) -> np.ndarray:
        """int16 [frames] from sample `start` on, of a recording that must have `length` samples.

        Raises UserError when it has another length or format, or cannot be read.
        """
        path = self.folder / f"{name}{self.suffix}"
        try:
            with soundfile.SoundFile(path) as audio:
                found = (audio.samplerate, audio.channels, audio.frames)
                if found != (SAMPLE_RATE, 1, length):
                    raise UserError(
                        f"{path}: {found[0]} Hz, {found[1]} channels, {found[2]:,} samples, but the "
                        f"recording it was made from has 16000 Hz, 1 and {length:,}; enhance the set again"
                    )
                audio.seek(start)
                samples = audio.read(frames, dtype="int16")
        except soundfile.LibsndfileError as error:
            raise UserError(f"{path}: cannot be read ({error.error_string}); enhance the set again") from None
        if len(samples) != frames:
            raise UserError(f"{path}: ends {frames - len(samples)} samples early; enhance the set again")
        return samples


def whole_batches(
    utterances: PairedUtterances, batch_seconds: float, rows: Iterable[int] | None = None, workers: int = 0
) -> Iterator[dict[str, Any]]:
    """Yield each recording of the set, or of `rows`, once, in batches of similar length, longest first.

    batch_seconds  upper bound on the longest recording times the number of recordings of a batch; a longer recording
                   is a batch of its own
    workers        loader processes
    A batch holds the tensors noisy and clean, int16 [B, T], negatives, int16 [B, K, T], all zero-padded, and lengths,
    int64 [B]; and ids, a list of B strings.
    """
    rows = np.arange(len(utterances)) if rows is None else np.asarray(list(rows), dtype=np.int64)
    batches = batches_by_length(np.asarray(utterances.num_samples)[rows], int(batch_seconds * SAMPLE_RATE))
    dataset = _WholeBatches(utterances, [rows[batch] for batch in batches])
    # Its own generator: a seed drawn from the global one would change the training that is being validated.
    yield from DataLoader(dataset, batch_size=None, num_workers=workers, generator=torch.Generator())


class _WholeBatches(Dataset):
    def __init__(self, utterances: PairedUtterances, batches: list[np.ndarray]) -> None:
        self.utterances, self.batches = utterances, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Any]:
        rows = self.batches[index]
        lengths = torch.from_numpy(self.utterances.num_samples[rows].astype(np.int64))
        signals = torch.zeros(len(rows), 2 + len(self.utterances.enhanced), int(lengths.max()), dtype=torch.int16)
        for item, row, length in zip(signals, rows.tolist(), lengths.tolist(), strict=True):
            item[:, :length] = torch.from_numpy(self.utterances.read(row))
        return {
            "noisy": signals[:, 0],
            "clean": signals[:, 1],
            "negatives": signals[:, 2:],
            "lengths": lengths,
            "ids": self.utterances.ids(rows),
        }


class Condition(NamedTuple):
    """How noisy a recording is; None where unknown.

    snr    dB
    noise  its kind: cafe, bus, music, ...
    """

    snr: float | None = None
    noise: str | None = None


def read_conditions(folder: Path | str) -> dict[str, Condition]:
    """Read pairs.tsv of data/<corpus>/<set>, by id. Raises UserError when it is absent or damaged."""
    path = Path(folder) / "pairs.tsv"
    if not path.exists():
        raise UserError(f"{path}: there is no such file; prepare the pairs again")
    try:
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
        return {
            name: Condition(None if snr == "-" else float(snr), None if noise == "-" else noise)
            for name, snr, noise in rows
        }
    except ValueError:
        raise UserError(f"{path}: a line is not id, SNR and noise; prepare the pairs again") from None


def write_conditions(folder: Path | str, conditions: dict[str, Condition]) -> None:
    """Write pairs.tsv of data/<corpus>/<set>, unless the file already says the same."""
    path = Path(folder) / "pairs.tsv"
    rows = (
        f"{name}\t{'-' if snr is None else f'{snr:g}'}\t{noise or '-'}" for name, (snr, noise) in conditions.items()
    )
    lines = ["id\tsnr\tnoise", *rows]
    if not path.exists() or path.read_text(encoding="utf-8").splitlines() != lines:
        write_lines(path, lines)
