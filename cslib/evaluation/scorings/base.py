"""What all scorings have in common.

Shapes: c training utterances (the cohort), u test utterances, n trials, E embedding, C separated streams.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

# (embeddings [u, E] or [u, C, E], enrol [n], test [n]) -> scores [n] float32; enrol and test are rows of the embeddings
Scorer = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(kw_only=True)
class ScoringConfig:
    cohort_size: int = 20000  # asnorm: number of training utterances, drawn at random, to normalise with
    top_k: int = 300  # asnorm: number of cohort utterances, the most similar ones, that count for each utterance
    plda_size: int = 150  # plda: dimensions of the speaker subspace; fewer if the labels support no more
    seed: int = 0  # random seed of the cohort and the bootstrap


@dataclass(kw_only=True)
class Background:
    """What a scoring may learn from: the training set, and nothing of the test set.

    ids         [c] of the training utterances; empty if there is no cohort
    embeddings  [c, E] or [c, C, E]
    labels      pseudo-labels of the training set, from clustering
    cohort      the file of the embeddings, for messages
    """

    config: ScoringConfig
    ids: list[str]
    embeddings: np.ndarray
    labels: Path | None
    cohort: Path | None
    device: torch.device
