"""Cosine of the two embeddings; with separated streams, of the most similar pair of them."""

from __future__ import annotations

import numpy as np

from cslib.evaluation.cosine import cosine_scores, unit_embeddings
from cslib.evaluation.scorings.base import Background, Scorer

NEEDS: tuple[str, ...] = ()


def build(background: Background) -> Scorer:
    def scores(embeddings: np.ndarray, enrol: np.ndarray, test: np.ndarray) -> np.ndarray:
        return cosine_scores(unit_embeddings(embeddings, device=background.device), enrol, test)

    return scores
