"""Softmax on cosines with angular margins (AAM-softmax).

Shapes: B embeddings, E their size, K centres per class. Everything is float32, under autocast too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cslib.objectives.angular_margin import add_angle, subtract_angle

TOP_K = 5  # nearest wrong classes that `with_top_k_margin` acts on, as in Zhao et al.


def class_cosines(embeddings: Tensor, centres: Tensor) -> Tensor:
    """Cosine with the nearest centre of each class, float32: [B, E], [classes, K, E] -> [B, classes].

    Several centres per class are the sub-centres of Deng et al. 2020 (ECCV).
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        embeddings, centres = F.normalize(embeddings.float(), dim=-1), F.normalize(centres.float(), dim=-1)
        cosines = embeddings @ centres.flatten(0, 1).T
        return cosines.unflatten(1, centres.shape[:2]).amax(-1) if centres.shape[1] > 1 else cosines


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy [B] of labels [B] from logits [B, classes], exact however small it is.

    torch's is 0 below 1e-7, where most well-learnt utterances are, and a gate needs their logarithms.
    """
    others = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
    return F.softplus(others - logits.gather(1, labels[:, None])[:, 0])


def with_margin(cosines: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Widen the angle to the true class by `margin` radians: cosines [B, classes], labels [B] -> [B, classes]."""
    true = cosines.gather(1, labels[:, None])
    return cosines.scatter(1, labels[:, None], add_angle(true, margin))


def with_top_k_margin(cosines: Tensor, labels: Tensor, margin: float, count: int = TOP_K) -> Tensor:
    """Narrow the angles to the `count` nearest wrong classes by `margin` radians; to all if there are fewer.

    The inter-top-K penalty of Zhao et al. 2021, arXiv 2110.05042. Shapes as in `with_margin`.
    """
    if not margin:
        return cosines
    wrong = cosines.detach().scatter(1, labels[:, None], -torch.inf)
    nearest = wrong.topk(min(count, cosines.shape[1] - 1)).indices
    return cosines.scatter(1, nearest, subtract_angle(cosines.gather(1, nearest), margin))
