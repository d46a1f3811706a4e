"""InfoNCE with a queue, the loss of MoCo (He et al. 2020, arXiv 1911.05722, equation 1)."""

from __future__ import annotations

import torch
from torch import Tensor


def info_nce_loss(queries: Tensor, keys: Tensor, queue: Tensor, allowed: Tensor, temperature: float) -> Tensor:
    """Mean over queries of  -log(exp(q . k / t) / (exp(q . k / t) + sum_j exp(q . queue_j / t))).

    queries      [N, D] unit vectors
    keys         [N, D] unit vectors, the positive of each query
    queue        [K, D] unit vectors, the negatives
    allowed      bool [N, K], which of them are negatives of which query
    temperature  t

    A query without negatives has a loss of 0.
    """
    with torch.autocast(queries.device.type, enabled=False):
        positives = (queries * keys).sum(-1, keepdim=True) / temperature
        negatives = queries @ queue.T / temperature
    logits = torch.cat([positives, negatives.masked_fill(~allowed, -torch.inf)], dim=1)
    return (logits.logsumexp(1) - positives[:, 0]).mean()
