"""Estimate a decision threshold for verification scores without labels, from pseudo-labels.

    python local/calibrate.py --checkpoint exp/mini_csc/checkpoints/final.pt \\
        --embeddings exp/mini_csc/embeddings/train.scp --labels exp/mini_csc/final/pseudo_labels.tsv \\
        --data data/mini/train

Writes <run>/calibration.json beside the folder checkpoints/, where `python -m cslib verify` looks for it. Same-cluster
pairs of training recordings stand for same-speaker pairs, different-cluster pairs for different-speaker pairs. As a
cluster holds what a network already found similar, true error rates are higher than those printed here; see
cslib/evaluation/calibration.py.

With --data it also measures what the recordings are like: seconds of speech, bandwidth, noise, and the score of each
recording's halves (cslib/evaluation/signs.py). `verify` then warns of recordings that are unlike them.

The threshold holds for recordings like those it was estimated from. For others, from a hundred of them or more, also
without labels; here with the network that comes with the project:

    python local/prepare_folder.py --train-dir theirs --data data/theirs
    python local/extract_embeddings.py --checkpoint models/speaker.pt --cuts data/theirs/train --out exp/theirs/train
    python local/cluster_embeddings.py --embeddings exp/theirs/train.scp --out exp/theirs/labels.tsv --centroids 100
    python local/calibrate.py --checkpoint models/speaker.pt --embeddings exp/theirs/train.scp \\
        --labels exp/theirs/labels.tsv --data data/theirs/train --out exp/theirs/calibration.json
    python -m cslib verify a.wav b.wav --calibration exp/theirs/calibration.json
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cslib.checkpoints import load_speaker_encoder
from cslib.config import UserError, require, run
from cslib.data.embeddings import read_embeddings
from cslib.data.labels import numbered_labels
from cslib.data.utterances import Utterances
from cslib.devices import device_named
from cslib.evaluation.calibration import Uncalibrated, calibrate, calibration_path, count_pairs
from cslib.evaluation.signs import distributions
from cslib.files import digest, warn, write_json
from cslib.inference.recordings import signs_of_set

FEW = 300  # distinct pairs of a kind; of fewer, 1 % is less than three


@dataclass
class Options:
    checkpoint: Path  # final.pt that made the embeddings
    embeddings: Path  # .scp of the training set, from extract_embeddings.py
    labels: Path  # pseudo-labels of the training set, from clustering; the latest are the best
    out: Path | None = None  # file to write (default: calibration.json of the checkpoint's run)
    data: Path | None = None  # data/<set> of these recordings, to measure what they are like (default: not measured)
    measured: int = 500  # number of its recordings to measure, drawn at random
    pairs: int = 100_000  # number of pairs to draw of each kind
    seed: int = 0  # random seed of the draws
    device: str = "cpu"  # cpu, cuda, cuda:1, ...


def main(options: Options) -> None:
    require(options.pairs >= 100, "--pairs", options.pairs, "at least 100")
    require(options.measured >= 20, "--measured", options.measured, "at least 20")
    if not options.checkpoint.is_file():
        raise UserError(f"{options.checkpoint}: not found; check the path, or train first")
    ids, embeddings = read_embeddings(options.embeddings)
    labels, path = numbered_labels(options.labels, ids), options.out or calibration_path(options.checkpoint)
    try:
        found = calibrate(embeddings, labels, digest(options.checkpoint), options.pairs, options.seed)
    except ValueError as error:
        raise UserError(f"{options.embeddings}: {error}; use an earlier checkpoint") from None
    except Uncalibrated as reason:  # no reason to stop a recipe
        write_json(path, {"uncalibrated": str(reason)})
        print(f"{path}: no threshold; {reason}")
        return
    if options.data:
        found = replace(found, signs=measure(options))
    found.write(path)
    within, across = count_pairs(labels)
    print(
        f"{path}: threshold {found.threshold:.3f}; {100 * found.missed:.1f} % of same-cluster pairs score below it, "
        f"{100 * found.false_alarms:.1f} % of different-cluster pairs above"
    )
    if found.has_strict:
        print(
            f"{path}: 1 % of different-cluster pairs score above {found.threshold_at_1_percent:.3f}, "
            f"{100 * found.missed_at_1_percent:.1f} % of same-cluster pairs below"
        )
    print(
        f"{path}: from {found.recordings:,} recordings in {found.clusters:,} clusters, with {within:,} distinct "
        f"same-cluster and {across:,} different-cluster pairs"
    )
    if found.signs:
        print(f"{path}: {found.signs['recordings']:,} recordings measured, so that `verify` notices unlike ones")
    if min(within, across) < FEW:
        warn(f"fewer than {FEW} distinct pairs of a kind give only a rough threshold; give more recordings")


def measure(options: Options) -> dict[str, Any] | None:
    """What a sample of the recordings is like; None, with a warning, if none of them has speech."""
    assert options.data
    utterances, device = Utterances.open(options.data), device_named(options.device)
    count = min(options.measured, len(utterances))
    rows = np.sort(np.random.default_rng(options.seed).choice(len(utterances), count, replace=False))
    found = signs_of_set(load_speaker_encoder(options.checkpoint, device), utterances, rows, device)
    if not found:
        warn(f"{options.data}: none of {count:,} recordings has a second of speech, so that nothing could be measured")
        return None
    return distributions(found)


if __name__ == "__main__":
    run(main, Options)
