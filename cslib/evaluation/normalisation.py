"""Adaptive symmetric score normalisation (AS-norm) with a cohort that needs no labels: training utterances.

A score is standardised by the scores of each of its two utterances with the cohort members most similar to it (AS-norm1
of Matejka et al. 2017, "Analysis of score normalization in multilingual speaker recognition").
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

CELLS = 1 << 24  # cohort scores held at a time: 64 MB
COHORT_BLOCK = 1 << 15  # cohort utterances a block


def as_norm(
    scores: np.ndarray, enrol: np.ndarray, test: np.ndarray, statistics: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """[n] float32: mean of the score standardised by the enrolment's statistics and that by the test utterance's.

    scores        [n] cosine of every trial
    enrol, test   [n] rows of the statistics
    statistics    ([u], [u]) from `cohort_statistics` of all utterances
    """
    mean, deviation = statistics
    by_enrol = (scores - mean[enrol]) / deviation[enrol]
    by_test = (scores - mean[test]) / deviation[test]
    return ((by_enrol + by_test) / 2).astype(np.float32)


@torch.no_grad()
def cohort_statistics(embeddings: Tensor, cohort: Tensor, top_k: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Mean [u] and standard deviation [u] (population, float32) of every utterance's highest cohort scores.

    embeddings   [u, E] or [u, C, E] from `unit_embeddings`
    cohort       [c, E] or [c, C, E] from `unit_embeddings`, same device; memory does not grow with it
    top_k        number of scores that count for each utterance; all c if there are fewer
    Raises ValueError when fewer than two cohort scores count.
    """
    top_k = min(top_k, len(cohort))
    if top_k < 2:
        raise ValueError("score normalisation needs at least two cohort utterances")
    streams = embeddings[0].numel() // embeddings.shape[-1]
    block = max(1, CELLS // (min(len(cohort), COHORT_BLOCK) * streams**2))
    mean, deviation = embeddings.new_empty(len(embeddings)), embeddings.new_empty(len(embeddings))
    for start in range(0, len(embeddings), block):
        best = _highest_scores(embeddings[start : start + block], cohort, top_k)
        mean[start : start + block] = best.mean(dim=1)
        deviation[start : start + block] = best.std(dim=1, correction=0)
    return mean.cpu().numpy(), deviation.clamp(min=1e-6).cpu().numpy()  # a cohort of copies deviates by 0


def _highest_scores(rows: Tensor, cohort: Tensor, top_k: int) -> Tensor:
    """[b, top_k] highest scores of each row, unsorted; the cohort is scored block by block."""
    best = rows.new_empty(len(rows), 0)
    for block in cohort.split(COHORT_BLOCK):
        best = torch.cat([best, _scores(rows, block)], dim=1)
        best = best.topk(min(top_k, best.shape[1]), dim=1, sorted=False).values
    return best


def _scores(rows: Tensor, block: Tensor) -> Tensor:
    """[b, k] scores of every row with every cohort member, the highest over the pairs of streams."""
    flat = rows.flatten(0, -2) @ block.flatten(0, -2).T
    if rows.ndim == 2:
        return flat
    return flat.view(len(rows), rows.shape[1], len(block), block.shape[1]).amax(dim=(1, 3))
