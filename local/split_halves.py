"""Make a set of the first and second halves of recordings, to see how often two halves of a recording find each other.

    python local/split_halves.py --data data/folder/train --out data/folder/train_halves

The halves of a recording are utterances `<recording>-1` and `<recording>-2`; no audio is copied. They need no labels:
local/make_label_free_results.py counts for how many of them the nearest embedding is that of the other half.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cslib.config import UserError, require, run
from cslib.data.manifests import SAMPLE_RATE, Entry, read_manifest, write_set


@dataclass
class Options:
    data: Path  # data/<corpus>/<set>
    out: Path  # set to make
    recordings: int = 2000  # largest number of utterances to split, drawn at random
    min_seconds: float = 2.0  # shorter utterances are not split
    seed: int = 0  # of the draw


def main(options: Options) -> None:
    require(options.recordings >= 2, "--recordings", options.recordings, "at least 2")
    cuts = [cut for cut in read_manifest(options.data / "cuts.jsonl.gz") if cut["duration"] >= options.min_seconds]
    if len(cuts) < 2:
        raise UserError(f"{options.data}: fewer than 2 utterances have {options.min_seconds:g} s; lower --min-seconds")
    rows = np.random.default_rng(options.seed).permutation(len(cuts))[: options.recordings]
    halves = sorted((half for row in rows for half in split(cuts[row])), key=lambda half: half.id)
    write_set(options.out, halves)
    print(f"{options.out}: {len(halves):,} halves of {len(rows):,} utterances")


def split(cut: dict[str, Any]) -> Iterator[Entry]:
    recording = cut["recording"]
    start, length = (round(cut[name] * SAMPLE_RATE) for name in ("start", "duration"))
    for number, first, last in ((1, 0, length // 2), (2, length // 2, length)):
        path, of = recording["sources"][0]["source"], recording["num_samples"]
        yield Entry(f"{cut['id']}-{number}", path, last - first, start=start + first, of_samples=of)


if __name__ == "__main__":
    run(main, Options)
