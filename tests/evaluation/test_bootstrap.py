"""The bootstrap over speakers against literally repeated trials, and sense of its intervals."""

import numpy as np
import pytest

from cslib.evaluation.bootstrap import eer_interval
from cslib.evaluation.error_rates import equal_error_rate


def speakers_with_trials(seed, num_speakers=12, count=600, spread=0.0, step=None):
    """Trials of `num_speakers`; `spread` is how far speakers differ in the scores of their targets."""
    rng = np.random.default_rng(seed)
    enrol = rng.integers(num_speakers, size=count)
    test = np.where(rng.random(count) < 0.5, enrol, rng.integers(num_speakers, size=count))
    targets = enrol == test
    ease = 1.5 + spread * rng.standard_normal(num_speakers)
    scores = rng.standard_normal(count) + np.where(targets, ease[enrol], 0)
    return (scores if step is None else np.round(scores / step)), targets, enrol, test


def repeated_trials_interval(scores, targets, enrol, test, replicates, seed):
    """The definition, literally: every trial written as often as its speakers were drawn."""
    rng, rates, num_speakers = np.random.default_rng(seed), [], len(np.unique([enrol, test]))
    while len(rates) < replicates:
        drawn = rng.integers(num_speakers, size=num_speakers)
        trials = [
            trial
            for trial in range(len(scores))
            for _ in range(
                sum(drawn == enrol[trial]) * (1 if enrol[trial] == test[trial] else sum(drawn == test[trial]))
            )
        ]
        if len(set(targets[trials])) == 2:
            rates.append(equal_error_rate(scores[trials], targets[trials]))
    return tuple(np.quantile(rates, [0.025, 0.975]))


@pytest.mark.parametrize("step", [None, 0.5])
def test_weights_equal_repeated_trials(step):
    trials = speakers_with_trials(1, num_speakers=5, count=80, step=step)
    expected = repeated_trials_interval(*trials, replicates=20, seed=3)
    assert eer_interval(*trials, replicates=20, seed=3) == pytest.approx(expected)


def test_speaker_numbers_may_have_gaps():
    scores, targets, enrol, test = speakers_with_trials(2)
    with_gaps = eer_interval(scores, targets, enrol * 7 + 3, test * 7 + 3)
    assert with_gaps == eer_interval(scores, targets, enrol, test)


@pytest.mark.parametrize("seed", range(4))
def test_interval_covers_the_point_estimate_and_is_repeatable(seed):
    trials = speakers_with_trials(seed)
    low, high = eer_interval(*trials, seed=seed)
    assert 0 <= low < equal_error_rate(*trials[:2]) < high <= 100
    assert (low, high) == eer_interval(*trials, seed=seed)
    assert (low, high) != eer_interval(*trials, seed=seed + 1)


def test_interval_widens_when_speakers_differ():
    """Trials of one speaker go together: as many trials say less when speakers differ in difficulty."""
    alike = eer_interval(*speakers_with_trials(5, spread=0.0, count=3000))
    differing = eer_interval(*speakers_with_trials(5, spread=1.5, count=3000))
    assert differing[1] - differing[0] > 1.5 * (alike[1] - alike[0])


def test_two_speakers_are_enough_and_one_is_not():
    scores, targets, enrol, test = speakers_with_trials(0, num_speakers=2)
    low, high = eer_interval(scores, targets, enrol, test, replicates=50)
    assert low <= high
    with pytest.raises(ValueError, match="at least two"):
        eer_interval(scores, targets, np.zeros_like(enrol), np.zeros_like(test))
