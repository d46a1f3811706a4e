"""Enhance recordings with a trained network.

    python local/enhance.py --checkpoint exp/mini_crn/ccr/checkpoints/final.pt --in recordings --out enhanced
    python local/enhance.py --checkpoint exp/mini_crn/none/checkpoints/final.pt --in data/mini_pairs/test/noisy \\
        --out exp/mini_crn/none/enhanced/test

--in is a wav or flac file, any tree of them, or a set of data/ (a folder with cuts.jsonl.gz). Names and tree are kept;
recordings of a set go to <out>/<id>.wav, and <out> is a set in turn. Long recordings pass in overlapping windows that
are cross-faded: memory does not grow with their length. Output is 16-bit, 16 kHz and mono, as long as the input. An
interrupted run goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path

import soundfile
import torch

from cslib.config import Part, run
from cslib.data.manifests import Entry, write_set
from cslib.data.pair_preparation import claim
from cslib.data.utterances import SAMPLE_RATE
from cslib.enhancement.streaming import Job, enhance_file, find_jobs, load_enhancer
from cslib.files import progress


@dataclass
class Options:
    checkpoint: Path  # final.pt of an enhancement network
    in_: Path  # recordings: a file, a tree of wav and flac files, or a set
    out: Path  # folder for the enhanced ones
    device: str = "auto"  # cpu, cuda, cuda:1, ...; auto takes a GPU when there is one
    part: Part = field(default_factory=Part)  # "3/40": the third of forty equal shares


def main(options: Options) -> None:
    device = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    network = load_enhancer(options.checkpoint, device)
    jobs = find_jobs(options.in_, options.out)
    jobs = jobs[options.part.slice(len(jobs))]
    claim(options.out, {"network": hashlib.sha256(options.checkpoint.read_bytes()).hexdigest()[:12]})
    left = [job for job in jobs if not job.done]
    print(f"{options.out}: {len(left):,} of {len(jobs):,} recordings to enhance, with "
          f"{sum(p.numel() for p in network.parameters()):,} parameters")
    _tell_changes(left)
    began = time.perf_counter()
    samples = sum(enhance_file(network, device, job) for job in progress(left, f"enhancing to {options.out.name}"))
    if samples:
        seconds, audio = time.perf_counter() - began, samples / SAMPLE_RATE
        print(f"{options.out}: {audio / 60:.1f} min of audio in {seconds:.1f} s, real-time factor "
              f"{seconds / audio:.4f}")
    if (options.in_ / "cuts.jsonl.gz").exists():
        list_set(find_jobs(options.in_, options.out), options.out)


def list_set(jobs: list[Job], out: Path) -> None:
    """Make the folder a set once all of it is there; whichever part ends last does."""
    if all(job.done for job in jobs):
        write_set(out, (Entry(job.target.stem, job.target.absolute(), soundfile.info(job.target).frames)
                        for job in jobs))


def _tell_changes(jobs: list[Job]) -> None:
    """One sentence when the output is of another kind than some of the input."""
    changed = [job.source for job in jobs if _is_other_kind(job.source)]
    if changed:
        print(f"{len(changed):,} of {len(jobs):,} recordings, for one {changed[0]}, are not 16 kHz mono: they are "
              "resampled and their channels averaged, and their enhanced versions are 16 kHz mono")


def _is_other_kind(path: Path) -> bool:
    try:
        header = soundfile.info(path)
    except soundfile.LibsndfileError:
        return False  # told when its turn comes
    return (header.samplerate, header.channels) != (SAMPLE_RATE, 1)


if __name__ == "__main__":
    run(main, Options)
