"""Enhance recordings on disk, of any length, sampling rate and number of channels, in constant memory."""

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

SUFFIXES = (".wav", ".flac")  # formats whose enhanced version keeps the format


class Job(NamedTuple):
    """A recording and the path of its enhanced version."""

    source: Path
    target: Path

    @property
    def done(self) -> bool:
        """Whether the enhanced version exists and is newer than the recording."""
        return (
            self.target.exists() and self.source.exists() and self.target.stat().st_mtime >= self.source.stat().st_mtime
        )


def find_jobs(source: Path, out: Path, suffixes: Collection[str] = SUFFIXES) -> list[Job]:
    """One job for each recording of a file, a tree of files or a set, sorted.

    source    a folder with cuts.jsonl.gz is a set: its recordings go to <out>/<id>.wav. Those of any other folder go to
              <out>/<path below source>; formats other than wav and flac become wav
    suffixes  of the files of a tree to enhance
    Raises UserError when there is no recording, and when `out` lies in the tree to enhance: a second run would enhance
    the output of the first.
    """
    if (source / "cuts.jsonl.gz").exists():
        if out.resolve() == source.resolve():
            raise UserError(f"{out}: is the set to enhance; choose another --out")
        # By id, and not with_suffix: an id may contain a dot.
        return [Job(path, out / f"{name}.wav") for name, path in sorted(recordings_of_set(source).items())]
    if not source.exists():
        raise UserError(f"{source}: no such file or folder; check the path")
    mine, theirs = out.resolve(), source.resolve()
    if mine == theirs or theirs in mine.parents:
        raise UserError(f"{out}: lies in the folder to enhance, {source}; choose another --out")
    if source.is_file() and mine == theirs.parent:
        raise UserError(f"{out}: holds {source.name}, the recording to enhance; choose another --out")
    root = source if source.is_dir() else source.parent
    paths = [source] if source.is_file() else sorted(source.rglob("*"))
    jobs = [
        Job(path, _target(out / path.relative_to(root)))
        for path in paths
        if path.suffix.lower() in suffixes and not path.name.startswith(".")
    ]
    if not jobs:
        *most, last = (suffix[1:] for suffix in suffixes)
        raise UserError(f"{source}: has no {', '.join(most)} or {last} file; convert the recordings, or check the path")
    return jobs


def _target(path: Path) -> Path:
    return path if path.suffix.lower() in SUFFIXES else path.with_suffix(".wav")


def enhance_jobs(checkpoint: Path, jobs: list[Job], out: Path, device: torch.device | str) -> None:
    """Enhance the recordings that are not done yet; print their number and the real-time factor.

    Raises UserError when the checkpoint is of another kind of network, when `out` holds the output of another network,
    and when a recording cannot be read.
    """
    network = load_enhancer(checkpoint, device)
    claim(out, {"network": digest(checkpoint)})
    left = [job for job in jobs if not job.done]
    print(
        f"{out}: {len(left):,} of {len(jobs):,} recordings to enhance, with a network of "
        f"{sum(p.numel() for p in network.parameters()):,} parameters"
    )
    _report_conversions(left)
    began = time.perf_counter()
    samples = sum(enhance_file(network, device, job) for job in progress(left, f"enhancing to {out.name}"))
    if samples:
        seconds, audio = time.perf_counter() - began, samples / SAMPLE_RATE
        print(f"{out}: {audio / 60:.1f} min of audio in {seconds:.1f} s, real-time factor {seconds / audio:.4f}")


def enhance_file(network: Enhancer, device: torch.device | str, job: Job) -> int:
    """Write the enhanced recording, 16 kHz mono in 16 bits, and return its length in samples.

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
        raise UserError(f"{job.source}: cannot be read ({error}); make or copy it again, or remove it") from None
    return samples


def _on(blocks: Iterator[np.ndarray], device: torch.device | str) -> Iterator[torch.Tensor]:
    return (torch.from_numpy(block).to(device) for block in blocks)


def _report_conversions(jobs: list[Job]) -> None:
    """Print one sentence when some recordings are converted."""
    changed = [job.source for job in jobs if _is_other_kind(job.source)]
    if changed:
        print(
            f"{len(changed):,} of {len(jobs):,} recordings, e.g. {changed[0]}, are not 16 kHz mono; their enhanced "
            "versions are: they are resampled and their channels averaged"
        )


def _is_other_kind(path: Path) -> bool:
    try:
        header = soundfile.info(path)
    except soundfile.LibsndfileError:
        return False  # reported when it is enhanced
    return (header.samplerate, header.channels) != (SAMPLE_RATE, 1)
