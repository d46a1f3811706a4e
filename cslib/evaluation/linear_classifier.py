"""Logistic regression on standardised embeddings; its regularisation is chosen without the test fold."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from cslib.config import UserError
from cslib.data.classes import Split

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C of scikit-learn, the inverse of the regularisation strength
ITERATIONS = 2000


def fit(embeddings: np.ndarray, labels: np.ndarray, strength: float) -> Pipeline:
    """Fit standardisation and a classifier to embeddings [n, E] with labels [n]."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=ITERATIONS)).fit(embeddings, labels)


def choose_strength(
    embeddings: np.ndarray,
    labels: np.ndarray,
    inner: list[tuple[np.ndarray, np.ndarray]],
    strengths: tuple[float, ...] = STRENGTHS,
) -> float:
    """The C with the highest accuracy over all inner folds; of several, the smallest.

    inner  (training rows, validation rows) of each fold; other rows are not used. A fold whose training rows have only
           one class is skipped
    Raises UserError when no fold is left.
    """
    inner = [(learn, check) for learn, check in inner if len(set(labels[learn])) > 1]
    if not inner:
        raise UserError(
            "no regularisation strength can be chosen: without the held-out speakers, all utterances are of one "
            "class; give more speakers of each class, or other folds"
        )
    hits = [
        sum(
            int(
                np.count_nonzero(
                    fit(embeddings[learn], labels[learn], strength).predict(embeddings[check]) == labels[check]
                )
            )
            for learn, check in inner
        )
        for strength in strengths
    ]
    return strengths[int(np.argmax(hits))]


def classify(
    embeddings: np.ndarray, labels: np.ndarray, split: Split, strength: float | None = None
) -> tuple[np.ndarray, float]:
    """Predicted labels of the rows split.test, and the C of the classifier.

    embeddings  float [n, E]
    labels      [n]; those of split.test are not used
    strength    C (None: chosen on split.inner)
    """
    if strength is None:
        strength = choose_strength(embeddings, labels, split.inner)
    return fit(embeddings[split.train], labels[split.train], strength).predict(embeddings[split.test]), strength
