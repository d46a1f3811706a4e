"""Figures of classifiers against scikit-learn, and their intervals against literally repeated utterances."""

import warnings

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score

from cslib.evaluation import classification
from cslib.evaluation.classification import drawn_measures, interval, measures


def answers(seed, count=60, classes=4, right=0.5, absent=()):
    """Classes, answers and speakers of random utterances; `absent` classes have no utterance."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(np.setdiff1d(np.arange(classes), absent), count)
    guesses = rng.integers(classes, size=count)
    return truth, np.where(rng.random(count) < right, truth, guesses), rng.integers(6, size=count)


def by_sklearn(truth, predicted):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are answered and never there
        return [
            100 * f1_score(truth, predicted, average="micro"),
            100 * f1_score(truth, predicted, average="macro"),
            100 * balanced_accuracy_score(truth, predicted),
        ]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("absent", [(), (2,)])
def test_measures_are_those_of_scikit_learn(seed, absent):
    truth, predicted, _ = answers(seed, absent=absent)
    counts = classification.confusion_matrix(truth, predicted, 4)
    assert np.array_equal(counts, confusion_matrix(truth, predicted, labels=range(4)))
    assert measures(counts) == pytest.approx(by_sklearn(truth, predicted))


def test_class_that_is_neither_there_nor_answered_counts_nowhere():
    truth, predicted, _ = answers(1, classes=3)
    counts = np.zeros((4, 4))
    counts[:3, :3] = confusion_matrix(truth, predicted)
    assert measures(counts) == pytest.approx(measures(counts[:3, :3]))


def test_micro_f1_is_the_share_of_right_answers():
    truth, predicted, _ = answers(2)
    assert measures(classification.confusion_matrix(truth, predicted, 4))[0] == 100 * np.mean(truth == predicted)


def test_draws_equal_repeated_utterances():
    """The definition, literally: all of a speaker as often as it was drawn."""
    truth, predicted, speakers = answers(3)
    rng = np.random.default_rng(7)
    expected = []
    for _ in range(5):
        rows = np.concatenate([np.flatnonzero(speakers == speaker) for speaker in rng.integers(6, size=6)])
        expected.append(by_sklearn(truth[rows], predicted[rows]))
    assert drawn_measures(truth, predicted, speakers, 4, replicates=5, seed=7) == pytest.approx(np.array(expected))


def test_interval_covers_the_figures_and_speakers_may_have_any_name():
    truth, predicted, speakers = answers(4, count=400)
    low, high = interval(drawn_measures(truth, predicted, speakers, 4)).T
    values = measures(classification.confusion_matrix(truth, predicted, 4))
    assert (low < values).all() and (values < high).all() and (low > 0).all() and (high < 100).all()
    named = np.array([f"speaker {number}" for number in speakers])
    assert np.array_equal(
        drawn_measures(truth, predicted, named, 4, 20), drawn_measures(truth, predicted, speakers, 4, 20)
    )


def test_interval_is_wider_when_speakers_differ_in_difficulty():
    rng = np.random.default_rng(5)
    speakers = np.repeat(np.arange(10), 50)
    truth = rng.integers(4, size=500)
    widths = []
    for ease in (np.full(10, 0.6), np.linspace(0.2, 1.0, 10)):
        predicted = np.where(rng.random(500) < ease[speakers], truth, (truth + 1) % 4)
        low, high = interval(drawn_measures(truth, predicted, speakers, 4))[0]
        widths.append(high - low)
    assert widths[1] > 1.5 * widths[0]


def test_one_speaker_is_not_enough():
    truth, predicted, _ = answers(6)
    with pytest.raises(ValueError, match="at least two"):
        drawn_measures(truth, predicted, np.zeros(60), 4)
