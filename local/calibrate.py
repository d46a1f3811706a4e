"""Find the score above which two recordings count as one speaker, without labels: from pseudo-labels.

    python local/calibrate.py --checkpoint exp/mini_csc/checkpoints/final.pt \\
        --embeddings exp/mini_csc/embeddings/train.scp --labels exp/mini_csc/final/pseudo_labels.tsv

Writes <run>/calibration.json beside the folder checkpoints/, where `python -m cslib verify` looks for it. Pairs of
training recordings within a cluster stand for one speaker, pairs across clusters for two. Clusters hold what a network
already found alike: speakers whom it tears apart or mixes up are neither seen missed nor falsely accepted, so that real
error rates are higher than those printed here. More of this in cslib/evaluation/calibration.py.

The threshold holds for recordings like those it was made from. For others, also without labels, from a hundred of them:

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

from cslib.config import UserError, run
from cslib.data.embeddings import read_embeddings
from cslib.data.labels import numbered_labels
from cslib.evaluation.calibration import Uncalibrated, calibrate, calibration_path, count_pairs
from cslib.files import digest, warn, write_json

FEW = 300  # different pairs of a kind: of fewer one in a hundred is three or less


@dataclass
class Options:
    checkpoint: Path  # what made the embeddings
    embeddings: Path  # what extract_embeddings.py wrote for the training set, <out>.scp
    labels: Path  # pseudo-labels of the training set, from clustering; the latest are the best
    out: Path | None = None  # file to write (default: calibration.json of the checkpoint's run)
    pairs: int = 100_000  # drawn of each kind
    seed: int = 0  # of the drawing


def main(options: Options) -> None:
    if options.pairs < 100:
        raise UserError(f"--pairs {options.pairs}: give 100 or more, of fewer one in a hundred cannot be found")
    if not options.checkpoint.is_file():
        raise UserError(f"{options.checkpoint}: there is no such checkpoint; train first (stage 3)")
    ids, embeddings = read_embeddings(options.embeddings)
    labels, path = numbered_labels(options.labels, ids), options.out or calibration_path(options.checkpoint)
    try:
        found = calibrate(embeddings, labels, digest(options.checkpoint), options.pairs, options.seed)
    except ValueError as error:
        raise UserError(f"{options.embeddings}: {error}; take an earlier checkpoint") from None
    except Uncalibrated as reason:  # no reason for a recipe to stop
        write_json(path, {"uncalibrated": str(reason)})
        print(f"{path}: no threshold; {reason}")
        return
    found.write(path)
    within, across = count_pairs(labels)
    print(
        f"{path}: threshold {found.threshold:.3f} ({100 * found.missed:.1f} % of the pairs within clusters below, "
        f"{100 * found.false_alarms:.1f} % of those across not), {found.threshold_at_1_percent:.3f} at 1 % of those "
        f"across ({100 * found.missed_at_1_percent:.1f} % within below); {found.recordings:,} recordings in "
        f"{found.clusters:,} clusters make {within:,} different pairs within and {across:,} across"
    )
    if min(within, across) < FEW:
        warn(f"fewer than {FEW} pairs of a kind make a rough threshold; give more recordings")


if __name__ == "__main__":
    run(main, Options)
