"""Error rates against hand-made cases, scikit-learn and properties that must hold for any scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_curve

from cslib.evaluation.error_rates import det_curve, equal_error_rate, min_dcf


def random_trials(seed, count=400, step=None):
    """Scores with a separation of one deviation, rounded to `step` where ties are wanted."""
    rng = np.random.default_rng(seed)
    targets = rng.random(count) < 0.3
    scores = rng.standard_normal(count) + targets
    return (scores if step is None else np.round(scores / step) * step), targets


@pytest.mark.parametrize(
    "scores, targets, eer, dcf",
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], 0.0, 0.0),  # separable
        ([1, 2, 3, 4], [1, 1, 0, 0], 100.0, 1.0),  # the wrong way round
        ([5, 5, 5, 5], [0, 1, 0, 1], 50.0, 1.0),  # all alike: half way from "accept all" to "reject all"
        ([1, 3, 2, 4], [0, 0, 1, 1], 50.0, 0.5),  # (far, frr): (1, 0) (.5, 0) (.5, .5) (0, .5) (0, 1)
        ([0, 2, 2, 3], [0, 0, 1, 1], 25.0, 0.5),  # the tie is one step: (1, 0) (.5, 0) (0, .5) (0, 1)
        ([0, 1, 2, 1, 2, 3, 4], [0, 0, 0, 1, 1, 1, 1], 200 / 7, 0.5),  # between (1/3, 1/4) and (0, 1/2)
    ],
)
def test_hand_computed(scores, targets, eer, dcf):
    assert equal_error_rate(np.array(scores), np.array(targets)) == pytest.approx(eer)
    assert min_dcf(np.array(scores), np.array(targets)) == pytest.approx(dcf)


def test_det_curve_runs_from_accept_all_to_reject_all():
    far, frr, thresholds = det_curve(np.array([0.0, 2.0, 2.0, 3.0]), np.array([False, False, True, True]))
    assert far.tolist() == [1.0, 0.5, 0.0, 0.0]
    assert frr.tolist() == [0.0, 0.0, 0.5, 1.0]
    assert thresholds.tolist() == [0.0, 2.0, 3.0, np.inf]


@pytest.mark.parametrize("step", [None, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn(seed, step):
    scores, targets = random_trials(seed, step=step)
    far, hit, _ = roc_curve(targets, scores, drop_intermediate=False)
    crossing = brentq(lambda x: 1 - x - interp1d(far, hit)(x), 0, 1, xtol=1e-12)
    assert equal_error_rate(scores, targets) == pytest.approx(100 * crossing, abs=1e-6)
    assert min_dcf(scores, targets) == pytest.approx(((1 - hit) * 0.01 + far * 0.99).min() / 0.01)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-50, 50), st.booleans()), min_size=2, max_size=40), st.randoms())
def test_order_and_monotone_transforms_change_nothing(trials, random):
    if len({target for _, target in trials}) < 2:
        return
    shuffled = random.sample(trials, len(trials))
    rising = lambda x: np.exp(x / 25) - 7  # noqa: E731
    results = []
    for one, transform in ((trials, np.asarray), (shuffled, np.asarray), (trials, rising)):
        scores, targets = np.array([score for score, _ in one]), np.array([target for _, target in one])
        results.append((equal_error_rate(transform(scores), targets), min_dcf(transform(scores), targets)))
    assert results[0] == results[1] == results[2]
    assert 0 <= results[0][0] <= 100 and 0 <= results[0][1] <= 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_turning_scores_and_classes_round_keeps_the_eer(seed):
    scores, targets = random_trials(seed, 60, step=0.5)
    assert equal_error_rate(-scores, ~targets) == pytest.approx(equal_error_rate(scores, targets))


@pytest.mark.parametrize(
    "scores, targets, complaint",
    [
        ([1.0, 2.0], [True, True], "target and non-target"),
        ([1.0, 2.0], [False, False], "target and non-target"),
        ([], [], "target and non-target"),
        ([1.0, np.nan], [True, False], "1 of 2 scores are not finite"),
        ([1.0, np.inf], [True, False], "not finite"),
        ([1.0, 2.0, 3.0], [True, False], "one score per trial"),
    ],
)
def test_what_cannot_be_judged_raises(scores, targets, complaint):
    for metric in (equal_error_rate, min_dcf):
        with pytest.raises(ValueError, match=complaint):
            metric(np.array(scores), np.array(targets, dtype=bool))
