"""Cosine scores of trials, computed block by block: no matrix of utterances by utterances, no loop over trials.

An utterance has one embedding [E] or, from a separating network, one for each of its C streams [C, E]; the score of two
utterances is then that of their most similar pair of streams. Everything runs on the device of the embeddings.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

CELLS = 1 << 21  # values gathered per block and side: 8 MB


def unit_embeddings(
    embeddings: np.ndarray, mean: np.ndarray | None = None, device: torch.device | str = "cpu"
) -> Tensor:
    """Subtract `mean` [E] from embeddings [n, E] or [n, C, E] and scale them to length 1 along E; float32.

    Raises ValueError for values that are not finite.
    """
    units = torch.from_numpy(np.ascontiguousarray(embeddings, dtype=np.float32)).to(device)
    if mean is not None:
        units = units - torch.from_numpy(mean.astype(np.float32)).to(device)
    lengths = torch.linalg.vector_norm(units, dim=-1, keepdim=True)
    if not torch.isfinite(lengths).all():
        raise ValueError("embeddings have values that are not finite")
    return units / lengths.clamp(min=1e-12)


def mean_embedding(embeddings: np.ndarray) -> np.ndarray:
    """[E] mean over all utterances and, as their order means nothing, over streams."""
    return embeddings.mean(axis=tuple(range(embeddings.ndim - 1)), dtype=np.float64)


@torch.no_grad()
def cosine_scores(embeddings: Tensor, enrol: np.ndarray, test: np.ndarray) -> np.ndarray:
    """[n] float32 cosine of every trial.

    embeddings    [u, E] or [u, C, E] from `unit_embeddings`
    enrol, test   [n] rows of `embeddings`
    """
    pair = torch.linalg.vecdot if embeddings.ndim == 2 else _most_similar_streams
    one, other = (torch.from_numpy(rows).long().to(embeddings.device) for rows in (enrol, test))
    scores, size = embeddings.new_empty(len(one)), max(1, CELLS // embeddings[0].numel())
    for start in range(0, len(one), size):
        block = slice(start, start + size)
        scores[block] = pair(embeddings[one[block]], embeddings[other[block]])
    return scores.cpu().numpy()


def _most_similar_streams(one: Tensor, other: Tensor) -> Tensor:
    return (one @ other.mT).amax(dim=(1, 2))
