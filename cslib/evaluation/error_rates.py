"""Equal error rate, minimum detection cost and the DET curve they are read from.

An operating point is a threshold: a trial is accepted when its score is at least that high. Trials of equal score are
accepted together, so their order never matters. `far`, the false-alarm rate, is the part of the non-targets that is
accepted; `frr`, the miss rate, is the part of the targets that is rejected.

To add a metric of verification, write a function (scores [n], targets bool [n]) -> float here and name it in METRICS:
it is then part of every row of results.json and of what local/compute_metrics.py prints.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def equal_error_rate(scores: np.ndarray, targets: np.ndarray) -> float:
    """EER in percent: where false-alarm and miss rates are equal, interpolated between neighbouring operating points.

    scores   [n] higher means more similar; ties are one operating point
    targets  [n] bool
    Raises ValueError when either class is empty or a score is not finite.
    """
    far, frr, _ = det_curve(scores, targets)
    return eer_of_curve(far, frr)


def min_dcf(scores: np.ndarray, targets: np.ndarray, p_target: float = 0.01) -> float:
    """Lowest detection cost over all thresholds with C_miss = C_fa = 1 (NIST SRE), normalised.

    1 is the cost of the better of "accept all" and "reject all", so the range is [0, 1]. Arguments and errors
    as for `equal_error_rate`.
    """
    far, frr, _ = det_curve(scores, targets)
    cost = p_target * frr + (1 - p_target) * far
    return float(cost.min() / min(p_target, 1 - p_target))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"eer": equal_error_rate, "min_dcf_0.01": min_dcf}


def error_rates(scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Each of METRICS by its name. Arguments and errors as for `equal_error_rate`."""
    return {name: metric(scores, targets) for name, metric in METRICS.items()}


def det_curve(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(far, frr, thresholds), each [distinct scores + 1], from "accept all" (1, 0) to "reject all" (0, 1).

    Arguments and errors as for `equal_error_rate`; the last threshold is infinite.
    """
    scores, targets = checked(scores, targets)
    thresholds, level = np.unique(scores, return_inverse=True)
    rejected_targets, rejected_nontargets = (
        np.concatenate([[0], np.cumsum(np.bincount(level[mask], minlength=len(thresholds)))])
        for mask in (targets, ~targets)
    )
    far, frr = 1 - rejected_nontargets / rejected_nontargets[-1], rejected_targets / rejected_targets[-1]
    return far, frr, np.append(thresholds, np.inf)


def eer_of_curve(far: np.ndarray, frr: np.ndarray) -> float:
    """EER in percent of a curve that runs from (far, frr) = (1, 0) to (0, 1)."""
    gap = frr - far  # rises from -1 to 1
    after = int(np.searchsorted(gap, 0.0))
    before = after - 1
    share = -gap[before] / (gap[after] - gap[before])
    return float(100 * (frr[before] + share * (frr[after] - frr[before])))


def checked(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The arguments as float64 and bool arrays. Raises ValueError when no error rate can be computed from them."""
    scores, targets = np.asarray(scores, dtype=np.float64), np.asarray(targets, dtype=bool)
    if scores.ndim != 1 or scores.shape != targets.shape:
        raise ValueError(f"need one score per trial, not {scores.shape} scores for {targets.shape} trials")
    if not np.isfinite(scores).all():
        wrong = np.count_nonzero(~np.isfinite(scores))
        raise ValueError(f"{wrong:,} of {len(scores):,} scores are not finite")
    if targets.all() or not targets.any():
        raise ValueError(
            f"need target and non-target trials, not {np.count_nonzero(targets):,} targets of {len(targets):,}"
        )
    return scores, targets
