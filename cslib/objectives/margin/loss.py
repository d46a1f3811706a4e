"""Softmax on cosines with angular margins; the arithmetic of margin.py.

Shapes: B embeddings, E their size, K centres of a class. Everything is float32, under autocast too.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Of the squared sine: keeps the gradient of its root finite where an embedding is on a centre.
SINE_FLOOR = 1e-6


def class_cosines(embeddings: Tensor, centres: Tensor) -> Tensor:
    """Cosine with the nearest centre of each class, float32: [B, E], [classes, K, E] -> [B, classes]."""
    with torch.autocast(embeddings.device.type, enabled=False):
        embeddings, centres = F.normalize(embeddings.float(), dim=-1), F.normalize(centres.float(), dim=-1)
        cosines = embeddings @ centres.flatten(0, 1).T
        return cosines.unflatten(1, centres.shape[:2]).amax(-1) if centres.shape[1] > 1 else cosines


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy [B] of labels [B] from logits [B, classes], exact however small it is.

    (That of torch is 0 below 1e-7, where most well-learnt utterances are, and a gate needs their logarithms.)
    """
    others = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
    return F.softplus(others - logits.gather(1, labels[:, None])[:, 0])


def with_margin(cosines: Tensor, labels: Tensor, margin: float) -> Tensor:
    """cos(theta + margin) in place of cos(theta) for the true class: [B, classes], labels [B] -> [B,
    classes].

    Where theta + margin would pass pi, and the cosine rise again, it goes on as cos(theta) - margin
    sin(margin).
    """
    true = cosines.gather(1, labels[:, None])
    moved = true * math.cos(margin) - _sine(true) * math.sin(margin)
    moved = torch.where(true > -math.cos(margin), moved, true - margin * math.sin(margin))
    return cosines.scatter(1, labels[:, None], moved)


def with_top_k_margin(cosines: Tensor, labels: Tensor, margin: float, count: int) -> Tensor:
    """cos(theta - margin) in place of cos(theta) for the `count` nearest wrong classes, or all if there are fewer.

    The inter-top-K penalty of Zhao et al. 2021, arXiv 2110.05042. Where theta - margin would pass 0, and the
    cosine fall again, it goes on as cos(theta) + 1 - cos(margin). Shapes as in `with_margin`.
    """
    if not margin:
        return cosines
    wrong = cosines.detach().scatter(1, labels[:, None], -torch.inf)
    nearest = wrong.topk(min(count, cosines.shape[1] - 1)).indices
    near = cosines.gather(1, nearest)
    moved = near * math.cos(margin) + _sine(near) * math.sin(margin)
    moved = torch.where(near < math.cos(margin), moved, near + 1 - math.cos(margin))
    return cosines.scatter(1, nearest, moved)


def _sine(cosines: Tensor) -> Tensor:
    return (1 - cosines.square()).clamp(min=SINE_FLOOR).sqrt()
