"""Confidence intervals of the EER by a bootstrap over speakers.

Trials that share a speaker are not independent, so that resampling trials would give intervals that are too narrow.
Instead, speakers are drawn with replacement (the subsets bootstrap of Bolle, Ratha and Pankanti 2004). A trial of two
speakers drawn a and b times counts a * b times, a same-speaker trial of a speaker drawn a times counts a times.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

from cslib.evaluation.error_rates import checked, eer_of_curve, equal_error_rate

REPLICATES = 300  # the ends vary by about 4 % of the width; takes 2 s for 580,000 trials


def eer_interval(
    scores: np.ndarray,
    targets: np.ndarray,
    enrol_speakers: np.ndarray,
    test_speakers: np.ndarray,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval (low, high) of the EER in percent.

    scores, targets                 [n] as for `equal_error_rate`
    enrol_speakers, test_speakers   int [n] numbers of the two speakers of each trial, from 0
    Raises ValueError as `equal_error_rate` does, and when there are fewer than two speakers.
    """
    scores, targets = checked(scores, targets)
    speakers = np.unique(np.concatenate([enrol_speakers, test_speakers]))
    if len(speakers) < 2:
        raise ValueError("a bootstrap over speakers needs at least two speakers")
    enrol, test = np.searchsorted(speakers, enrol_speakers), np.searchsorted(speakers, test_speakers)
    thresholds = np.append(np.unique(scores), np.inf)
    classes = [_Class(scores[mask], enrol[mask], test[mask], thresholds) for mask in (targets, ~targets)]
    rng = np.random.default_rng(seed)
    rates: list[float] = []
    while len(rates) < replicates:
        times = np.bincount(rng.integers(len(speakers), size=len(speakers)), minlength=len(speakers))
        rejected_targets, rejected_nontargets = (one.rejected(times.astype(np.float64)) for one in classes)
        if rejected_targets[-1] and rejected_nontargets[-1]:  # with few speakers, some draws leave a class empty
            rates.append(_weighted_eer(classes, rejected_targets, rejected_nontargets))
    low, high = np.quantile(rates, [0.025, 0.975])
    return float(low), float(high)


def drawn_eers(
    scores: np.ndarray, targets: np.ndarray, enrol_speakers: np.ndarray, test_speakers: np.ndarray, draws: int = 200
) -> np.ndarray:
    """EER in percent, float [1 + draws]: over all speakers, then over those of each draw. Arguments as `eer_interval`.

    The draws depend on the trials alone, so that differences between two systems are paired.
    """
    # Both ends of the interval of a single replicate are its EER, and its seed alone decides the draw.
    return np.array(
        [
            equal_error_rate(scores, targets),
            *(
                eer_interval(scores, targets, enrol_speakers, test_speakers, replicates=1, seed=draw)[0]
                for draw in range(draws)
            ),
        ]
    )


def over_seeds(drawn: np.ndarray) -> tuple[float, float, float]:
    """Mean over seeds of values [seeds, 1 + draws], and its 95 % interval (low, high) over seeds and test speakers."""
    seeds = np.random.default_rng(0).integers(len(drawn), size=drawn.shape)
    low, high = np.quantile(np.take_along_axis(drawn, seeds, axis=0)[:, 1:].mean(0), [0.025, 0.975])
    return float(drawn[:, 0].mean()), float(low), float(high)


class _Class:
    """The trials of one class, sorted by score once for all replicates.

    below   int [thresholds], number of trials that score below each threshold
    """

    def __init__(self, scores: np.ndarray, enrol: np.ndarray, test: np.ndarray, thresholds: np.ndarray) -> None:
        order = np.argsort(scores)
        self.enrol, self.test = enrol[order], test[order]
        self.within = np.flatnonzero(self.enrol == self.test)
        self.below = np.searchsorted(scores[order], thresholds)

    def rejected(self, times: np.ndarray) -> np.ndarray:
        """[n + 1] total weight of the 0, 1, ... lowest trials if speaker s was drawn times[s] times."""
        weights = times[self.enrol] * times[self.test]
        weights[self.within] = times[self.enrol[self.within]]
        return np.concatenate([[0.0], np.cumsum(weights)])


def _weighted_eer(classes: list[_Class], rejected_targets: np.ndarray, rejected_nontargets: np.ndarray) -> float:
    """EER in percent. The rates are monotone, so that bisection of the thresholds finds their crossing."""
    targets, nontargets = classes

    def frr(at: int | slice) -> np.ndarray:
        return rejected_targets[targets.below[at]] / rejected_targets[-1]

    def far(at: int | slice) -> np.ndarray:
        return 1 - rejected_nontargets[nontargets.below[at]] / rejected_nontargets[-1]

    after = bisect_left(range(len(targets.below)), 0.0, key=lambda at: frr(at) - far(at))
    return eer_of_curve(far(slice(after - 1, after + 1)), frr(slice(after - 1, after + 1)))
