"""The classifier of frozen embeddings: what is tested on decides nothing."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from cslib.config import UserError
from cslib.data.classes import ClassTable, Labelled
from cslib.evaluation import linear_classifier
from cslib.evaluation.linear_classifier import choose_strength, classify, fit


@pytest.fixture
def task():
    """(embeddings [90, 12], table) of nine speakers in three folds; two of the numbers tell the classes, noisily."""
    rng = np.random.default_rng(0)
    table = ClassTable.of(Labelled(f"u{n:02d}", "abc"[n % 3], f"s{n // 10}", f"fold{n // 10 % 3}") for n in range(90))
    embeddings = rng.standard_normal((90, 12)) * np.linspace(1, 100, 12) + 5
    embeddings[:, 0] += 2 * (table.labels == "b")
    embeddings[:, 1] += 20 * (table.labels == "c")
    return embeddings, table


@pytest.mark.filterwarnings("ignore:invalid value")
def test_strength_never_sees_the_held_out_fold(task):
    embeddings, table = task
    for split in table.splits():
        expected = classify(embeddings, table.labels, split)
        poisoned, labels = embeddings.copy(), table.labels.copy()
        poisoned[split.test], labels[split.test] = np.nan, "never"  # scikit-learn refuses what is not a number
        assert choose_strength(poisoned, labels, split.inner) == expected[1]
        # Nor does what is fitted with it, labels included.
        labels = table.labels.copy()
        labels[split.test] = np.roll(labels[split.test], 1)
        answers, strength = classify(embeddings, labels, split)
        assert strength == expected[1] and np.array_equal(answers, expected[0])
        with pytest.raises(ValueError, match="NaN"):  # the poison does work
            choose_strength(poisoned, table.labels, [(split.test, split.train)])


def test_means_and_deviations_are_those_of_the_training_folds(task):
    embeddings, table = task
    split = next(table.splits())
    answers, strength = classify(embeddings, table.labels, split)
    given = classify(embeddings, table.labels, split, 1e-4)
    assert given[1] == 1e-4 != strength and not np.array_equal(given[0], answers)
    scaler = StandardScaler().fit(embeddings[split.train])
    plain = LogisticRegression(C=strength, max_iter=5000).fit(
        scaler.transform(embeddings[split.train]), table.labels[split.train]
    )
    assert np.array_equal(answers, plain.predict(scaler.transform(embeddings[split.test])))
    assert np.mean(answers == table.labels[split.test]) > 0.5


def test_strength_is_the_one_with_most_right_answers_and_the_smallest_of_equals(task, monkeypatch):
    embeddings, table = task
    inner = next(table.splits()).inner
    hits = [
        sum(
            (
                fit(embeddings[learn], table.labels[learn], strength).predict(embeddings[check]) == table.labels[check]
            ).sum()
            for learn, check in inner
        )
        for strength in (1e-4, 1e-2, 1.0)
    ]
    assert len(set(hits)) > 1
    assert choose_strength(embeddings, table.labels, inner, (1e-4, 1e-2, 1.0)) == (1e-4, 1e-2, 1.0)[np.argmax(hits)]

    # Rows of one class alone can be fitted to nothing.
    alone = np.flatnonzero(table.labels == "a")
    assert choose_strength(embeddings, table.labels, [(alone, inner[0][1]), *inner]) == choose_strength(
        embeddings, table.labels, inner
    )
    with pytest.raises(UserError, match="no regularisation strength can be chosen"):
        choose_strength(embeddings, table.labels, [(alone, inner[0][1])])

    class Blind:
        def predict(self, some):
            return np.full(len(some), "a")

    monkeypatch.setattr(linear_classifier, "fit", lambda *_: Blind())
    assert choose_strength(embeddings, table.labels, inner) == linear_classifier.STRENGTHS[0]
