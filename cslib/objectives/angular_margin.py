"""Additive angular margins on cosines (ArcFace, AAM-softmax: Deng et al. 2019, arXiv 1801.07698)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Of the squared sine: keeps the gradient of its root finite where an embedding coincides with a centre.
SINE_FLOOR = 1e-6


def add_angle(cosines: Tensor, margin: float) -> Tensor:
    """cos(theta) -> cos(theta + margin), elementwise; margin in radians, 0 to pi.

    Where theta + margin exceeds pi, and the cosine would rise again, it continues as cos(theta) - margin sin(margin).
    """
    moved = cosines * math.cos(margin) - _sine(cosines) * math.sin(margin)
    return torch.where(cosines > -math.cos(margin), moved, cosines - margin * math.sin(margin))


def subtract_angle(cosines: Tensor, margin: float) -> Tensor:
    """cos(theta) -> cos(theta - margin), elementwise; margin in radians, 0 to pi.

    Where theta - margin is below 0, and the cosine would fall again, it continues as cos(theta) + 1 - cos(margin).
    """
    moved = cosines * math.cos(margin) + _sine(cosines) * math.sin(margin)
    return torch.where(cosines < math.cos(margin), moved, cosines + 1 - math.cos(margin))


def _sine(cosines: Tensor) -> Tensor:
    return (1 - cosines.square()).clamp(min=SINE_FLOOR).sqrt()
