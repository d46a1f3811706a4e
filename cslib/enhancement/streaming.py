"""Enhance recordings on disk, however long, of any rate and number of channels, in little memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch

from cslib.config import UserError
from cslib.data.audio_files import Unreadable, reading, write_16_bit
from cslib.data.utterances import SAMPLE_RATE
from cslib.enhancement.folders import recordings_of_set
from cslib.files import writing
from cslib.models.spectra import Enhancer
from cslib.training.checkpoint import load_encoder

SUFFIXES = (".wav", ".flac")  # what can be written as it was read


class Job(NamedTuple):
    """A recording and where its enhanced version goes."""

    source: Path
    target: Path

    @property
    def done(self) -> bool:
        """Whether it was enhanced after it was last changed."""
        return self.target.exists() and self.source.exists() and \
            self.target.stat().st_mtime >= self.source.stat().st_mtime


def find_jobs(source: Path, out: Path) -> list[Job]:
    """One for each recording, sorted: <out>/<path below source> of a tree, <out>/<id>.wav of a set, or a single file.

    A folder is a set when it holds cuts.jsonl.gz. Raises UserError when there is none, and when `out` lies in a tree
    that is to be enhanced: a second run would enhance what the first one made.
    """
    if (source / "cuts.jsonl.gz").exists():
        # Not with_suffix, nor the order of files: an id may have a dot in it.
        return [Job(path, out / f"{name}.wav") for name, path in sorted(recordings_of_set(source).items())]
    if not source.exists():
        raise UserError(f"{source}: there is no such file or folder; check the path")
    mine, theirs = out.resolve(), source.resolve()
    if mine == theirs or theirs in mine.parents or (source.is_file() and mine == theirs.parent):
        raise UserError(f"{out}: lies in {source}, which is to be enhanced; choose another --out")
    root = source if source.is_dir() else source.parent
    paths = [source] if source.is_file() else sorted(source.rglob("*"))
    jobs = [Job(path, out / path.relative_to(root)) for path in paths
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    if not jobs:
        raise UserError(f"{source}: there is no wav or flac file; convert what is there, or check the path")
    return jobs


def load_enhancer(path: Path, device: torch.device | str = "cpu") -> Enhancer:
    """The network of a final.pt, in eval mode. Raises UserError when that is no network for enhancement."""
    network = load_encoder(path, device)
    if not isinstance(network, Enhancer):
        raise UserError(f"{path}: its network, {type(network).__name__}, enhances nothing; give a checkpoint of "
                        "egs/voicebank")
    return network


def enhance_file(network: Enhancer, device: torch.device | str, job: Job) -> int:
    """Write the enhanced recording, 16 kHz mono in 16 bits, and return how many samples it has: as many as before.

    Raises UserError when the recording cannot be read.
    """
    try:
        with reading(job.source) as (samples, blocks), writing(job.target) as temporary, \
                soundfile.SoundFile(temporary, "w", SAMPLE_RATE, 1, subtype="PCM_16") as out:
            for piece in network.stream(_on(blocks, device), samples):
                write_16_bit(out, piece.cpu().numpy())
    except (Unreadable, ValueError) as error:
        raise UserError(f"{job.source}: cannot be read ({error}); make or copy it again") from None
    return samples


def _on(blocks: Iterator[np.ndarray], device: torch.device | str) -> Iterator[torch.Tensor]:
    return (torch.from_numpy(block).to(device) for block in blocks)
