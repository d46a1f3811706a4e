"""Enhance recordings on disk, however long, of any rate and number of channels, in little memory."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch

from cslib.checkpoints import load_enhancer
from cslib.config import UserError
from cslib.corpora.audio_files import Unreadable, reading, write_16_bit
from cslib.data.manifests import SAMPLE_RATE, recordings_of_set
from cslib.files import claim, digest, progress, writing
from cslib.models.layers.spectra import Enhancer

SUFFIXES = (".wav", ".flac")  # what can be written as it was read


class Job(NamedTuple):
    """A recording and where its enhanced version goes."""

    source: Path
    target: Path

    @property
    def done(self) -> bool:
        """Whether it was enhanced after it was last changed."""
        return (
            self.target.exists() and self.source.exists() and self.target.stat().st_mtime >= self.source.stat().st_mtime
        )


def find_jobs(source: Path, out: Path, suffixes: Collection[str] = SUFFIXES) -> list[Job]:
    """One for each recording, sorted: <out>/<path below source> of a tree, <out>/<id>.wav of a set, or a single file.

    A folder is a set when it holds cuts.jsonl.gz. Of a tree, files of these suffixes are taken; the enhanced version of
    what is neither wav nor flac is a wav file.
    Raises UserError when there is none, and when `out` lies in a tree that is to be enhanced: a second run would
    enhance what the first one made.
    """
    if (source / "cuts.jsonl.gz").exists():
        if out.resolve() == source.resolve():
            raise UserError(f"{out}: is the set that is to be enhanced; choose another --out")
        # Not with_suffix, nor the order of files: an id may have a dot in it.
        return [Job(path, out / f"{name}.wav") for name, path in sorted(recordings_of_set(source).items())]
    if not source.exists():
        raise UserError(f"{source}: there is no such file or folder; check the path")
    mine, theirs = out.resolve(), source.resolve()
    if mine == theirs or theirs in mine.parents:
        raise UserError(f"{out}: lies in {source}, which is to be enhanced; choose another --out")
    if source.is_file() and mine == theirs.parent:
        raise UserError(f"{out}: holds {source.name}, which is to be enhanced; choose another --out")
    root = source if source.is_dir() else source.parent
    paths = [source] if source.is_file() else sorted(source.rglob("*"))
    jobs = [
        Job(path, _target(out / path.relative_to(root)))
        for path in paths
        if path.suffix.lower() in suffixes and not path.name.startswith(".")
    ]
    if not jobs:
        *most, last = (suffix[1:] for suffix in suffixes)
        raise UserError(
            f"{source}: there is no {', '.join(most)} or {last} file; convert what is there, or check the path"
        )
    return jobs


def _target(path: Path) -> Path:
    return path if path.suffix.lower() in SUFFIXES else path.with_suffix(".wav")


def enhance_jobs(checkpoint: Path, jobs: list[Job], out: Path, device: torch.device | str) -> None:
    """Enhance those recordings that are not done, and print how many they are and how fast it went.

    Raises UserError when the checkpoint is none of an enhancement network, when `out` holds what another one made, and
    when a recording cannot be read.
    """
    network = load_enhancer(checkpoint, device)
    claim(out, {"network": digest(checkpoint)})
    left = [job for job in jobs if not job.done]
    print(
        f"{out}: {len(left):,} of {len(jobs):,} recordings to enhance, with "
        f"{sum(p.numel() for p in network.parameters()):,} parameters"
    )
    _tell_changes(left)
    began = time.perf_counter()
    samples = sum(enhance_file(network, device, job) for job in progress(left, f"enhancing to {out.name}"))
    if samples:
        seconds, audio = time.perf_counter() - began, samples / SAMPLE_RATE
        print(f"{out}: {audio / 60:.1f} min of audio in {seconds:.1f} s, real-time factor {seconds / audio:.4f}")


def enhance_file(network: Enhancer, device: torch.device | str, job: Job) -> int:
    """Write the enhanced recording, 16 kHz mono in 16 bits, and return how many samples it has: as many as before.

    Raises UserError when the recording cannot be read.
    """
    try:
        with (
            reading(job.source) as (samples, blocks),
            writing(job.target) as temporary,
            soundfile.SoundFile(temporary, "w", SAMPLE_RATE, 1, subtype="PCM_16") as out,
        ):
            if not samples:
                raise Unreadable("it is empty")
            for piece in network.stream(_on(blocks, device), samples):
                write_16_bit(out, piece.cpu().numpy())
    except (Unreadable, ValueError) as error:
        raise UserError(f"{job.source}: cannot be read ({error}); make or copy it again, or take it away") from None
    return samples


def _on(blocks: Iterator[np.ndarray], device: torch.device | str) -> Iterator[torch.Tensor]:
    return (torch.from_numpy(block).to(device) for block in blocks)


def _tell_changes(jobs: list[Job]) -> None:
    """One sentence when the output is of another kind than some of the input."""
    changed = [job.source for job in jobs if _is_other_kind(job.source)]
    if changed:
        print(
            f"{len(changed):,} of {len(jobs):,} recordings, for one {changed[0]}, are not 16 kHz mono: they are "
            "resampled and their channels averaged, and their enhanced versions are 16 kHz mono"
        )


def _is_other_kind(path: Path) -> bool:
    try:
        header = soundfile.info(path)
    except soundfile.LibsndfileError:
        return False  # told when its turn comes
    return (header.samplerate, header.channels) != (SAMPLE_RATE, 1)
