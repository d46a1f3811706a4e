"""A decision threshold for verification scores, estimated without labels: same-cluster pairs of pseudo-labels stand for
same-speaker pairs, different-cluster pairs for different-speaker pairs.

Logistic regression maps a score s to the log-likelihood ratio of the two kinds of pairs, slope x s + offset. At equal
priors the threshold is where the ratio is 0.

The estimate is optimistic, because clusters come from embeddings of the same network or of an earlier one:

* Recordings of one speaker that the network finds dissimilar, through another microphone or in another mood, lie in
  different clusters and count as different speakers. The true miss rate is higher than `missed`.
* Different speakers with similar voices may share a cluster. Then some same-cluster pairs are of different speakers,
  and the hardest different-speaker pairs are missing. The true false-alarm rate at the second threshold is higher than
  1 %, and likelihood ratios are overconfident.
* A network trained on these clusters separates them almost perfectly, above all with a margin loss, which leaves few
  errors to estimate a threshold from. The threshold of the network before it is more reliable.
* Recordings cut from one session share its microphone, which makes same-cluster pairs easier.
* The threshold holds for recordings like those of the training. Other languages, channels or rooms shift the scores.

It is a starting point that needs no labels; a few hundred labelled pairs give a better one.
"""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from cslib.config import UserError
from cslib.evaluation import signs
from cslib.evaluation.cosine import cosine_scores, unit_embeddings
from cslib.files import digest, read_json, write_json

FALSE_ALARMS = 0.01  # part of the different-cluster pairs that reach the second threshold
NAME = "calibration.json"


class Uncalibrated(UserError):
    """No threshold can be estimated from these pseudo-labels; the message says why."""


@dataclass(frozen=True)
class Calibration:
    checkpoint: str  # digest of the file that made the embeddings
    slope: float  # log-likelihood ratio = slope x score + offset, in nats
    offset: float
    threshold: float  # score at which the ratio is 0
    missed: float  # part of the same-cluster pairs that score below it
    false_alarms: float  # part of the different-cluster pairs that reach it
    threshold_at_1_percent: float  # score that 1 % of the different-cluster pairs reach
    missed_at_1_percent: float  # part of the same-cluster pairs that score below that
    pairs: int  # number drawn of each kind
    recordings: int  # number that have a label
    clusters: int
    seed: int
    signs: dict[str, Any] | None = None  # what these recordings are like (signs.distributions); None: not measured

    @property
    def has_strict(self) -> bool:
        """Whether the second threshold is the stricter one.

        It is not when fewer than `FALSE_ALARMS` of the different-cluster pairs reach the first threshold.
        """
        return self.threshold_at_1_percent > self.threshold

    def ratio(self, score: float) -> float:
        """Log-likelihood ratio in nats; positive: same speaker more likely."""
        return self.slope * score + self.offset

    def write(self, path: Path) -> None:
        write_json(path, {"scoring": "cosine", **asdict(self)})


def calibration_path(checkpoint: Path) -> Path:
    """<run>/calibration.json for a checkpoint in <run>/checkpoints; for one elsewhere, <name>.calibration.json beside
    it, or calibration.json if its name is final.pt.
    """
    folder = checkpoint.absolute().parent
    if folder.name == "checkpoints":
        return folder.parent / NAME
    return folder / (NAME if checkpoint.name == "final.pt" else f"{checkpoint.stem}.{NAME}")


def open_calibration(path: Path) -> Calibration:
    """Read a calibration. Raises UserError when the file is absent or another kind; Uncalibrated when it says so."""
    values = read_json(path)
    if isinstance(values, dict) and "uncalibrated" in values:
        raise Uncalibrated(f"{path}: {values['uncalibrated']}")
    required = {field.name for field in fields(Calibration) if field.default is MISSING}
    known = values.get("signs") if isinstance(values, dict) else None
    if not isinstance(values, dict) or not required <= set(values) or not (known is None or signs.valid(known)):
        raise UserError(f"{path}: not a calibration; make it again with local/calibrate.py")
    return Calibration(**{name: values[name] for name in required}, signs=known)


def copy_calibration(checkpoint: Path, copied: Path) -> Path | None:
    """Write the calibration of a checkpoint for a copy of its network; return its path, or None if there is none.

    The scores of both must be the same. The calibration of an earlier copy is removed.
    Raises UserError when the calibration is of another checkpoint.
    """
    source, target = calibration_path(checkpoint), calibration_path(copied)
    target.unlink(missing_ok=True)
    if not source.exists():
        return None
    try:
        replace(read_calibration(source, digest(checkpoint)), checkpoint=digest(copied)).write(target)
    except Uncalibrated:  # the copy says so, too
        write_json(target, read_json(source))
    return target


def read_calibration(path: Path, checkpoint: str) -> Calibration:
    """As `open_calibration`; also raises UserError when it was made for another checkpoint than that of this digest."""
    calibration = open_calibration(path)
    if calibration.checkpoint != checkpoint:
        raise UserError(f"{path}: made for another checkpoint; make it again with local/calibrate.py")
    return calibration


def calibrate(embeddings: np.ndarray, labels: np.ndarray, checkpoint: str, pairs: int, seed: int) -> Calibration:
    """Estimate a calibration from pseudo-labels.

    embeddings  float32 [n, E] or [n, C, E]
    labels      int [n], -1 = none
    checkpoint  digest of the checkpoint that made the embeddings
    pairs       number of pairs to draw of each kind
    Raises Uncalibrated when a kind of pairs does not exist, or same-cluster pairs do not score higher; ValueError for
    embeddings that are not finite.
    """
    one, other = draw_pairs(labels, pairs, seed)
    # Only what was drawn is scaled to length 1: memory grows with the pairs, not with the training set.
    used, rows = np.unique(np.concatenate([one, other]), return_inverse=True)
    scores = cosine_scores(unit_embeddings(embeddings[used]), *np.split(rows, 2))
    within, across = np.split(scores.astype(np.float64), 2)
    slope, offset = log_likelihood_ratio(within, across)
    threshold, second = -offset / slope, float(np.quantile(across, 1 - FALSE_ALARMS, method="higher"))
    return Calibration(
        checkpoint,
        slope,
        offset,
        threshold,
        float(np.mean(within < threshold)),
        float(np.mean(across >= threshold)),
        second,
        float(np.mean(within < second)),
        pairs,
        int(np.count_nonzero(labels >= 0)),
        len(np.unique(labels[labels >= 0])),
        seed,
    )


def count_pairs(labels: np.ndarray) -> tuple[int, int]:
    """Number of distinct (same-cluster, different-cluster) pairs of labels int [n], -1 = none."""
    sizes = np.unique(labels[labels >= 0], return_counts=True)[1].astype(np.int64)
    total, within = int(sizes.sum()), int((sizes * (sizes - 1) // 2).sum())
    return within, total * (total - 1) // 2 - within


def draw_pairs(labels: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (one, other), each int64 [2 count]: first same-cluster pairs, then as many different-cluster pairs.

    labels  int [n], -1 = none
    The first row of a pair is drawn uniformly from all that have a partner, the second uniformly from its partners.
    Drawing pairs uniformly would favour large clusters. A pair may be drawn more than once; its rows always differ.
    Raises Uncalibrated when one kind of pairs does not exist.
    """
    rows = np.flatnonzero(labels >= 0)
    rows = rows[np.argsort(labels[rows], kind="stable")]  # sorted by cluster
    _, starts, cluster, sizes = np.unique(labels[rows], return_index=True, return_inverse=True, return_counts=True)
    start, size = starts[cluster], sizes[cluster]
    paired = np.flatnonzero(size > 1)
    if len(sizes) < 2 or not len(paired):
        raise Uncalibrated(
            f"{len(rows):,} labelled recordings in {len(sizes):,} clusters do not give both same-cluster and "
            "different-cluster pairs; give other pseudo-labels"
        )
    rng = np.random.default_rng(seed)
    within, across = rng.choice(paired, count), rng.integers(len(rows), size=count)
    # The rows of a cluster, or all others, form a circle, on which no step returns to its start.
    step = rng.integers(1, size[within])
    partner = start[within] + (within - start[within] + step) % size[within]
    stranger = (start[across] + size[across] + rng.integers(0, len(rows) - size[across])) % len(rows)
    return rows[np.concatenate([within, across])], rows[np.concatenate([partner, stranger])]


def log_likelihood_ratio(within: np.ndarray, across: np.ndarray) -> tuple[float, float]:
    """Slope and offset of the log-likelihood ratio, by logistic regression.

    within, across  [n] scores of equally many same-cluster and different-cluster pairs
    Raises Uncalibrated when same-cluster pairs do not score higher.
    """
    scores, same = np.concatenate([within, across])[:, None], np.repeat([1, 0], [len(within), len(across)])
    # Just enough regularisation to keep the slope finite when the two kinds do not overlap.
    model = LogisticRegression(C=1e3).fit(scores, same)
    slope, offset = float(model.coef_[0, 0]), float(model.intercept_[0])
    if not slope > 0:
        raise Uncalibrated(
            "same-cluster pairs do not score higher than different-cluster pairs; the network has collapsed, or the "
            "pseudo-labels belong to another set"
        )
    return slope, offset
