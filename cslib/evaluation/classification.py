"""Measures of a classifier from its confusion matrix, with a bootstrap over speakers.

Utterances of one speaker are not independent, so that the bootstrap draws speakers, each with all its utterances.
"""

from __future__ import annotations

import numpy as np

MEASURES = ("micro_f1", "macro_f1", "uar")
REPLICATES = 2000  # of the bootstrap; the ends of intervals vary by about 2 % of the width


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """int64 [classes, classes]: number of utterances by true class (rows) and predicted class (columns).

    truth, predicted  [n] int, 0..classes-1
    """
    cells = np.ravel_multi_index((truth, predicted), (classes, classes))
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def measures(confusions: np.ndarray) -> np.ndarray:
    """[..., K, K] -> [..., 3] of MEASURES, in percent.

    micro_f1  F1 over all utterances; with one class per utterance it equals the accuracy
    macro_f1  mean over classes of F1 = 2 hits / (utterances of the class + predictions of the class)
    uar       unweighted average recall: mean over classes of hits / utterances of the class
    A class without utterances is left out of uar; one without utterances and predictions is left out of macro_f1.
    """
    confusions = np.asarray(confusions, dtype=np.float64)
    hits = np.diagonal(confusions, axis1=-2, axis2=-1)
    true, answered = confusions.sum(-1), confusions.sum(-2)
    micro = hits.sum(-1) / true.sum(-1)
    macro = _mean_where(2 * hits, true + answered)
    return 100 * np.stack([micro, macro, _mean_where(hits, true)], axis=-1)


def _mean_where(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    """Mean over the last axis of parts / wholes, leaving out wholes of 0."""
    present = wholes > 0
    return (parts / np.where(present, wholes, 1)).sum(-1) / present.sum(-1)


def drawn_measures(
    truth: np.ndarray,
    predicted: np.ndarray,
    speakers: np.ndarray,
    classes: int,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> np.ndarray:
    """[replicates, 3]: MEASURES over each draw of speakers with replacement.

    speakers  [n] of any type. Equal speakers give equal draws, so that two systems can be compared draw by draw
    Raises ValueError when there are fewer than two speakers.
    """
    names, numbers = np.unique(speakers, return_inverse=True)
    if len(names) < 2:
        raise ValueError("a bootstrap over speakers needs at least two speakers")
    cells = np.ravel_multi_index((numbers, truth, predicted), (len(names), classes, classes))
    by_speaker = np.bincount(cells, minlength=len(names) * classes**2).reshape(len(names), -1).astype(np.float64)
    rng = np.random.default_rng(seed)
    drawn = [
        np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names)) @ by_speaker
        for _ in range(replicates)
    ]
    return measures(np.reshape(drawn, (replicates, classes, classes)))


def interval(drawn: np.ndarray) -> np.ndarray:
    """Draws [replicates, ...] -> 95 % percentile interval (low, high) [..., 2]."""
    return np.moveaxis(np.quantile(drawn, [0.025, 0.975], axis=0), 0, -1)
