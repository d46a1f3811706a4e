"""The scoring "mean", normalised against a cohort of training utterances (adaptive s-norm, AS-norm)."""

from __future__ import annotations

import numpy as np

from cslib.evaluation.cosine import cosine_scores, mean_embedding, unit_embeddings
from cslib.evaluation.normalisation import as_norm, cohort_statistics
from cslib.evaluation.scorings.base import Background, Scorer

NEEDS = ("cohort",)


def build(background: Background) -> Scorer:
    config, device = background.config, background.device
    mean = mean_embedding(background.embeddings)
    drawn = np.random.default_rng(config.seed).permutation(len(background.embeddings))[: config.cohort_size]

    def scores(embeddings: np.ndarray, enrol: np.ndarray, test: np.ndarray) -> np.ndarray:
        units = unit_embeddings(embeddings, mean, device)
        cohort = unit_embeddings(background.embeddings[np.sort(drawn)], mean, device)
        statistics = cohort_statistics(units, cohort, config.top_k)
        return as_norm(cosine_scores(units, enrol, test), enrol, test, statistics)

    return scores
