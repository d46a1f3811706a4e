"""The level at which enhancement is learnt and compared: that of the noisy speech, as nothing else is known in use."""

from __future__ import annotations

import torch
from torch import Tensor

LEVEL = 10 ** (-25 / 20)  # root mean square of the noisy speech


def at_level(signals: Tensor) -> Tensor:
    """Signals [B, N, T] of B items, the noisy speech first -> the same times one gain for each item.

    The gain brings the noisy speech to LEVEL; where that is silent it is 1. What belongs to it keeps its relation to
    it: a network does not have to guess the level of the clean speech.
    """
    size = signals[:, :1].square().mean(-1, keepdim=True).sqrt()
    return signals * torch.where(size > 1e-6, LEVEL / size.clamp(min=1e-6), 1.0)
