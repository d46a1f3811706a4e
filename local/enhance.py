"""Enhance recordings with a trained network.

    python local/enhance.py --checkpoint exp/mini_crn/ccr/checkpoints/final.pt --in recordings --out enhanced
    python local/enhance.py --checkpoint exp/mini_crn/none/checkpoints/final.pt --in data/mini_pairs/test/noisy \\
        --out exp/mini_crn/none/enhanced/test

--in is a wav or flac file, a folder of them at any depth, or a set of data/ (a folder with cuts.jsonl.gz). Names and
subfolders are kept; recordings of a set go to <out>/<id>.wav, and <out> becomes a set. Long recordings are enhanced in
overlapping windows that are cross-faded, so that memory does not grow with their length. The output is 16-bit, 16 kHz
and mono, as long as the input. An interrupted run continues where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import soundfile

from cslib.checkpoints import load_enhancer
from cslib.config import Part, UserError, run
from cslib.data.manifests import Entry, write_set
from cslib.devices import device_named
from cslib.inference.enhancement import Job, enhance_jobs, find_jobs


@dataclass
class Options:
    checkpoint: Path  # final.pt of an enhancement network
    in_: Path | None = None  # file, folder or set to enhance (default: only check that the checkpoint opens)
    out: Path | None = None  # folder for the enhanced recordings
    device: str = "auto"  # cpu, cuda, cuda:1, ...; auto uses a GPU if there is one
    part: Part = field(default_factory=Part)  # "3/40": the third of forty equal shares


def main(options: Options) -> None:
    if not options.in_ and not options.out:
        load_enhancer(options.checkpoint)
        print(f"{options.checkpoint}: an enhancement network")
        return
    if not options.in_ or not options.out:
        raise UserError("--in and --out: give both, the recordings to enhance and the folder for the output")
    jobs = find_jobs(options.in_, options.out)
    mine = jobs[options.part.slice(len(jobs))]
    enhance_jobs(options.checkpoint, mine, options.out, device_named(options.device))
    if (options.in_ / "cuts.jsonl.gz").exists():
        list_set(jobs, options.out)


def list_set(jobs: list[Job], out: Path) -> None:
    """Make the folder a set once all recordings are enhanced; whichever part ends last does it."""
    if all(job.done for job in jobs):
        write_set(
            out, (Entry(job.target.stem, job.target.absolute(), soundfile.info(job.target).frames) for job in jobs)
        )


if __name__ == "__main__":
    run(main, Options)
