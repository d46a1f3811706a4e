"""Make a development set without labels: recordings of held-out clusters to test on, all others to train on.

    python local/hold_out_clusters.py --data data/folder/train --labels exp/run/round1/pseudo_labels.tsv --out data/dev
    python local/prepare_noise.py --out data/dev --noise-dir noises --rir-dir rirs --synthetic
    python local/make_adverse.py --test data/dev/test --noise data/dev/noise_test --out data/dev/test_adverse

Configs can then be compared on trials between recordings of clusters that no training has seen; true speakers are
needed neither here nor there. Clusters are not speakers: the error rates compare systems, and favour the system whose
embeddings were clustered. In out/test/speakers.tsv and the trials, a cluster counts as a speaker. Recordings without a
cluster are trained on. No audio is copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cslib.config import UserError, require, run
from cslib.corpora.all_pairs import write_all_pairs
from cslib.data.labels import read_table
from cslib.data.manifests import SAMPLE_RATE, Entry, read_manifest, write_set


@dataclass
class Options:
    data: Path  # data/<corpus>/train
    labels: Path  # pseudo-labels of its recordings
    out: Path  # makes train/ and test/ in it
    clusters: int = 40  # number of clusters to hold out, drawn at random
    recordings: int = 12  # recordings of each of them to test on; smaller clusters are not drawn
    largest: int = 0  # larger clusters are not drawn, since they may join several speakers; 0: twice the median size
    seed: int = 0  # of the draw


def main(options: Options) -> None:
    require(options.clusters >= 2, "--clusters", options.clusters, "at least 2")
    require(options.recordings >= 2, "--recordings", options.recordings, "at least 2")
    members: dict[str, list[str]] = {}
    for name, label in read_table(options.labels).items():
        if label != "-1":
            members.setdefault(label, []).append(name)
    rng = np.random.default_rng(options.seed)
    chosen = draw(members, options, rng)
    tested = {
        name: f"c{label}"
        for label in chosen
        for name in rng.choice(sorted(members[label]), options.recordings, replace=False).tolist()
    }
    held_out = {name for label in chosen for name in members[label]}
    cuts = list(read_manifest(options.data / "cuts.jsonl.gz"))
    test = sorted((entry(cut, tested[cut["id"]]) for cut in cuts if cut["id"] in tested), key=lambda one: one.id)
    kept = [entry(cut) for cut in cuts if cut["id"] not in held_out]
    count = write_set(options.out / "train", kept)
    print(f"{options.out}/train: {count:,} utterances, without the {len(held_out):,} of {len(chosen)} clusters")
    count = write_set(options.out / "test", test)
    print(f"{options.out}/test: {count:,} utterances of {len(chosen)} clusters")
    print(write_all_pairs(options.out / "test", rng))


def draw(members: dict[str, list[str]], options: Options, rng: np.random.Generator) -> list[str]:
    """Labels of the clusters to hold out. Raises UserError when too few have the right size."""
    largest = options.largest or 2 * int(np.median([len(names) for names in members.values()]))
    fit = sorted(label for label, names in members.items() if options.recordings <= len(names) <= largest)
    if len(fit) < options.clusters:
        raise UserError(
            f"{options.labels}: {len(fit)} clusters have {options.recordings} to {largest} recordings, and "
            f"{options.clusters} are to be held out; lower --clusters or --recordings, or raise --largest"
        )
    return sorted(rng.choice(fit, options.clusters, replace=False).tolist())


def entry(cut: dict[str, Any], cluster: str | None = None) -> Entry:
    """An utterance as it lies in another set, now of a cluster."""
    recording = cut["recording"]
    start, length = (round(cut[name] * SAMPLE_RATE) for name in ("start", "duration"))
    path, of = recording["sources"][0]["source"], recording["num_samples"]
    whole = start == 0 and length == of
    return Entry(cut["id"], path, length, speaker=cluster, start=start, of_samples=None if whole else of)


if __name__ == "__main__":
    run(main, Options)
