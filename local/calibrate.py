"""Estimate a decision threshold for verification scores without labels, from pseudo-labels.

    python local/calibrate.py --checkpoint exp/mini_csc/checkpoints/final.pt \\
        --embeddings exp/mini_csc/embeddings/train.scp --labels exp/mini_csc/final/pseudo_labels.tsv

Writes <run>/calibration.json beside the folder checkpoints/, where `python -m cslib verify` looks for it. Same-cluster
pairs of training recordings stand for same-speaker pairs, different-cluster pairs for different-speaker pairs. As a
cluster holds what a network already found similar, true error rates are higher than those printed here; see
cslib/evaluation/calibration.py.

The threshold holds for recordings like those it was estimated from. For others, from a hundred of them or more, also
without labels:

    python -m cslib embed theirs/*.wav --checkpoint exp/mini_csc/checkpoints/final.pt --out theirs/all.ark
    python local/cluster_embeddings.py --embeddings theirs/all.scp --out theirs/labels.tsv --centroids 100
    python local/calibrate.py --checkpoint exp/mini_csc/checkpoints/final.pt --embeddings theirs/all.scp \\
        --labels theirs/labels.tsv --out theirs/calibration.json
    python -m cslib verify a.wav b.wav --checkpoint exp/mini_csc/checkpoints/final.pt \\
        --calibration theirs/calibration.json
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cslib.config import UserError, require, run
from cslib.data.embeddings import read_embeddings
from cslib.data.labels import numbered_labels
from cslib.evaluation.calibration import Uncalibrated, calibrate, calibration_path, count_pairs
from cslib.files import digest, warn, write_json

FEW = 300  # distinct pairs of a kind; of fewer, 1 % is less than three


@dataclass
class Options:
    checkpoint: Path  # final.pt that made the embeddings
    embeddings: Path  # .scp of the training set, from extract_embeddings.py
    labels: Path  # pseudo-labels of the training set, from clustering; the latest are the best
    out: Path | None = None  # file to write (default: calibration.json of the checkpoint's run)
    pairs: int = 100_000  # number of pairs to draw of each kind
    seed: int = 0  # random seed of the draw


def main(options: Options) -> None:
    require(options.pairs >= 100, "--pairs", options.pairs, "at least 100")
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
    found.write(path)
    within, across = count_pairs(labels)
    print(
        f"{path}: threshold {found.threshold:.3f}; {100 * found.missed:.1f} % of same-cluster pairs score below it, "
        f"{100 * found.false_alarms:.1f} % of different-cluster pairs above"
    )
    print(
        f"{path}: 1 % of different-cluster pairs score above {found.threshold_at_1_percent:.3f}, "
        f"{100 * found.missed_at_1_percent:.1f} % of same-cluster pairs below"
    )
    print(
        f"{path}: from {found.recordings:,} recordings in {found.clusters:,} clusters, with {within:,} distinct "
        f"same-cluster and {across:,} different-cluster pairs"
    )
    if min(within, across) < FEW:
        warn(f"fewer than {FEW} distinct pairs of a kind give only a rough threshold; give more recordings")


if __name__ == "__main__":
    run(main, Options)
