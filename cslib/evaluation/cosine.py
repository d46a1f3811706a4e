"""Cosine scores of trials, a block at a time: no matrix of utterances by utterances, no loop over trials.

An utterance has one embedding [E] or, from a separating network, one for each of its C streams [C, E]; two
utterances are then as alike as their most alike pair of streams. All runs on the device of the embeddings.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

CELLS = 1 << 21  # gathered numbers a block and side: 8 MB


def unit_embeddings(embeddings: np.ndarray, mean: np.ndarray | None = None, device: str = "cpu") -> Tensor:
    """[n, E] or [n, C, E] float32 of length 1 along E, after `mean` [E] was subtracted.

    Raises ValueError for numbers that are not finite.
    """
    embeddings = torch.from_numpy(np.ascontiguousarray(embeddings, dtype=np.float32)).to(device)
    if mean is not None:
        embeddings = embeddings - torch.from_numpy(mean.astype(np.float32)).to(device)
    lengths = torch.linalg.vector_norm(embeddings, dim=-1, keepdim=True)
    if not torch.isfinite(lengths).all():
        raise ValueError("embeddings hold numbers that are not finite")
    return embeddings / lengths.clamp(min=1e-12)


def mean_embedding(embeddings: np.ndarray) -> np.ndarray:
    """[E] mean over all utterances, and over streams, which come in no order: what all embeddings share."""
    return embeddings.mean(axis=tuple(range(embeddings.ndim - 1)), dtype=np.float64)


@torch.no_grad()
def cosine_scores(embeddings: Tensor, enrol: np.ndarray, test: np.ndarray) -> np.ndarray:
    """[n] float32 cosine of every trial.

    embeddings    [u, E] or [u, C, E] from `unit_embeddings`
    enrol, test   [n] rows of `embeddings`
    """
    pair = torch.linalg.vecdot if embeddings.ndim == 2 else _most_alike_streams
    enrol, test = (torch.from_numpy(rows).long().to(embeddings.device) for rows in (enrol, test))
    scores, size = embeddings.new_empty(len(enrol)), max(1, CELLS // embeddings[0].numel())
    for start in range(0, len(enrol), size):
        block = slice(start, start + size)
        scores[block] = pair(embeddings[enrol[block]], embeddings[test[block]])
    return scores.cpu().numpy()


def _most_alike_streams(one: Tensor, other: Tensor) -> Tensor:
    return (one @ other.mT).amax(dim=(1, 2))
