"""Cosine after the mean embedding of the training set is subtracted."""

from __future__ import annotations

import numpy as np

from cslib.evaluation.cosine import cosine_scores, mean_embedding, unit_embeddings
from cslib.evaluation.scorings.base import Background, Scorer

NEEDS = ("cohort",)


def build(background: Background) -> Scorer:
    mean = mean_embedding(background.embeddings)

    def scores(embeddings: np.ndarray, enrol: np.ndarray, test: np.ndarray) -> np.ndarray:
        return cosine_scores(unit_embeddings(embeddings, mean, background.device), enrol, test)

    return scores
