"""NT-Xent, the loss of SimCLR (Chen et al. 2020, arXiv 2002.05709, equation 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Mean over the 2N crops i, whose partner is j, of  -log(exp(s_ij / t) / sum_{k != i} exp(s_ik / t)).

    first, second  [N, D] unit vectors, points of the two crops of every utterance; s are their cosines
    temperature    t

    The other 2N - 2 crops are the negatives. N >= 2. A guess has a loss of ln(2N - 1).
    """
    points = torch.cat([first, second])
    with torch.autocast(points.device.type, enabled=False):
        logits = points @ points.T / temperature
    own = torch.eye(len(points), dtype=torch.bool, device=points.device)
    partners = torch.arange(len(points), device=points.device).roll(len(first))
    return F.cross_entropy(logits.masked_fill(own, -torch.inf), partners)
