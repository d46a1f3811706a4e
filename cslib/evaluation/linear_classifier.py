"""Logistic regression on standardised embeddings, whose regularisation is chosen without the fold that is tested on."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from cslib.config import UserError
from cslib.data.classes import Split

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C of scikit-learn: the weight of the errors against that of the norm
ITERATIONS = 2000


def fit(embeddings: np.ndarray, labels: np.ndarray, strength: float) -> Pipeline:
    """A classifier, and the mean and deviation of each number, of embeddings [n, E] with labels [n]."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=ITERATIONS)).fit(embeddings, labels)


def choose_strength(
    embeddings: np.ndarray,
    labels: np.ndarray,
    inner: list[tuple[np.ndarray, np.ndarray]],
    strengths: tuple[float, ...] = STRENGTHS,
) -> float:
    """The strength with most right answers on the inner folds together; of equal ones the smallest.

    inner  row numbers (to fit on, to check on); other rows are not looked at. Where there is but one class to fit on
           nothing can be: such a pair is passed over
    Raises UserError when no pair is left.
    """
    inner = [(learn, check) for learn, check in inner if len(set(labels[learn])) > 1]
    if not inner:
        raise UserError(
            "no strength can be chosen: without the speakers to check on, all utterances are of one class; "
            "give more speakers of each class, or other folds"
        )
    hits = [
        sum(
            np.count_nonzero(
                fit(embeddings[learn], labels[learn], strength).predict(embeddings[check]) == labels[check]
            )
            for learn, check in inner
        )
        for strength in strengths
    ]
    return strengths[int(np.argmax(hits))]


def classify(
    embeddings: np.ndarray, labels: np.ndarray, split: Split, strength: float | None = None
) -> tuple[np.ndarray, float]:
    """What is answered for the rows of split.test, and the strength that it was found with.

    embeddings  float [n, E]
    labels      [n]; those of split.test are not looked at
    strength    without one it is chosen on split.inner
    """
    if strength is None:
        strength = choose_strength(embeddings, labels, split.inner)
    return fit(embeddings[split.train], labels[split.train], strength).predict(embeddings[split.test]), strength
