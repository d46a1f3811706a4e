"""From a score to "the same speaker" or not, without labels: the scores of pairs within pseudo-label clusters against
those of pairs across them.

A logistic regression turns a score s into the logarithm of how much likelier it is among the former than among the
latter, slope x s + offset. At equal priors the threshold is where that is 0.

What clusters can and cannot say. They were made from embeddings, of the same network or of an earlier one:

* A positive is a pair of recordings that already looked alike. Recordings of one speaker that the network finds
  different, through another microphone or in another mood, lie in different clusters and count as negatives. So real
  speakers are missed more often than `missed` says.
* Different speakers who sound alike may share a cluster: some positives are none, and the hardest negatives are
  missing. So real false alarms are more frequent than 1 % at the second threshold, and ratios are overconfident.
* A network that was trained on these clusters tells them apart better than any others: with a margin loss, hardly an
  error is left to learn a threshold from. That of the network before it is the more trustworthy one.
* Two entries of a training list count as different recordings. Where several were cut from one session, its microphone
  helps the positives.
* All of it holds for recordings like those that were trained on. Other languages, channels or rooms shift the scores.

The threshold is a starting point that needs nobody's labels; a few hundred pairs that you know give a better one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from cslib.config import UserError
from cslib.evaluation.cosine import cosine_scores, unit_embeddings
from cslib.files import read_json, write_json

FALSE_ALARMS = 0.01  # part of the pairs across clusters that reach the second threshold
NAME = "calibration.json"


class Uncalibrated(UserError):
    """The pseudo-labels say nothing about the scores; the message says why."""


@dataclass(frozen=True)
class Calibration:
    checkpoint: str  # digest of the file that made the embeddings
    slope: float  # of the log-likelihood ratio, in nats, in the score
    offset: float
    threshold: float  # score at which the ratio is 0
    missed: float  # part of the pairs within clusters that are below
    false_alarms: float  # part of the pairs across clusters that are not
    threshold_at_1_percent: float  # score that 1 % of the pairs across clusters reach
    missed_at_1_percent: float  # part of the pairs within clusters that are below that one
    pairs: int  # drawn of each kind
    recordings: int  # that have a label
    clusters: int
    seed: int

    def ratio(self, score: float) -> float:
        """Log-likelihood ratio in nats; positive: likelier within a cluster."""
        return self.slope * score + self.offset

    def write(self, path: Path) -> None:
        write_json(path, {"scoring": "cosine", **asdict(self)})


def calibration_path(checkpoint: Path) -> Path:
    """<run>/calibration.json of <run>/checkpoints/final.pt; beside a checkpoint that lies elsewhere."""
    folder = checkpoint.absolute().parent
    return (folder.parent if folder.name == "checkpoints" else folder) / NAME


def open_calibration(path: Path) -> Calibration:
    """Raises UserError when the file is absent or is no calibration; Uncalibrated when that is what it says."""
    values = read_json(path)
    if isinstance(values, dict) and "uncalibrated" in values:
        raise Uncalibrated(f"{path}: {values['uncalibrated']}")
    names = {field.name for field in fields(Calibration)}
    if not isinstance(values, dict) or not names <= set(values):
        raise UserError(f"{path}: it is no calibration; make it again with local/calibrate.py")
    return Calibration(**{name: values[name] for name in names})


def read_calibration(path: Path, checkpoint: str) -> Calibration:
    """The same; raises UserError too when it belongs to another checkpoint than this digest."""
    calibration = open_calibration(path)
    if calibration.checkpoint != checkpoint:
        raise UserError(f"{path}: it was made for another checkpoint; make it again with local/calibrate.py")
    return calibration


def calibrate(embeddings: np.ndarray, labels: np.ndarray, checkpoint: str, pairs: int, seed: int) -> Calibration:
    """A calibration from embeddings float32 [n, E], or [n, C, E], and labels int [n], -1 = none.

    checkpoint  digest of what made the embeddings
    pairs       how many of each kind are drawn
    Raises Uncalibrated when there are no pairs of both kinds, or the clusters are no more alike inside than outside;
    ValueError for embeddings that are not finite.
    """
    one, other = draw_pairs(labels, pairs, seed)
    # Only what was drawn is brought to length 1: memory grows with the pairs, not with the training set.
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
    """How many different pairs there are (within clusters, across them). labels  int [n], -1 = none"""
    sizes = np.unique(labels[labels >= 0], return_counts=True)[1].astype(np.int64)
    total, within = int(sizes.sum()), int((sizes * (sizes - 1) // 2).sum())
    return within, total * (total - 1) // 2 - within


def draw_pairs(labels: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (one, other), each int64 [2 count]: first pairs of one cluster, then as many of two, all of different rows.

    labels  int [n], -1 = none
    The first row of a pair is any that has a partner, each as likely as the others, the second any partner of it; so
    large clusters do not take over, as they would if every pair were as likely. A pair may come more than once.
    Raises Uncalibrated when there are no pairs of one kind.
    """
    rows = np.flatnonzero(labels >= 0)
    rows = rows[np.argsort(labels[rows], kind="stable")]  # clusters lie one after the other
    _, starts, cluster, sizes = np.unique(labels[rows], return_index=True, return_inverse=True, return_counts=True)
    start, size = starts[cluster], sizes[cluster]
    paired = np.flatnonzero(size > 1)
    if len(sizes) < 2 or not len(paired):
        raise Uncalibrated(
            f"{len(rows):,} labelled recordings in {len(sizes):,} clusters make no pairs within and "
            "across; give other pseudo-labels"
        )
    rng = np.random.default_rng(seed)
    within, across = rng.choice(paired, count), rng.integers(len(rows), size=count)
    # The places of a cluster, or those of all others, taken as a circle on which no step leads back to where it began.
    step = rng.integers(1, size[within])
    partner = start[within] + (within - start[within] + step) % size[within]
    stranger = (start[across] + size[across] + rng.integers(0, len(rows) - size[across])) % len(rows)
    return rows[np.concatenate([within, across])], rows[np.concatenate([partner, stranger])]


def log_likelihood_ratio(within: np.ndarray, across: np.ndarray) -> tuple[float, float]:
    """Slope and offset of the ratio in the score, from as many scores [n] of the one kind as of the other.

    Raises Uncalibrated when scores within clusters are not the higher ones.
    """
    scores, same = np.concatenate([within, across])[:, None], np.repeat([1, 0], [len(within), len(across)])
    # Hardly any regularisation, just enough that kinds which do not overlap at all leave the slope finite.
    model = LogisticRegression(C=1e3).fit(scores, same)
    slope, offset = float(model.coef_[0, 0]), float(model.intercept_[0])
    if not slope > 0:
        raise Uncalibrated(
            "recordings of one cluster are no more alike than those of two; the network has collapsed, "
            "or the pseudo-labels are those of another set"
        )
    return slope, offset
