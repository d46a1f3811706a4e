"""Batches of recordings of unequal length: which frames lie inside each recording after strided layers.

Shapes: B recordings, N frames. `stride` is the product of the strides of all layers so far: of `frames` feature
frames, ceil(frames / stride) are left.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

Size = TypeVar("Size", int, Tensor)


def strided_size(size: Size, stride: int) -> Size:
    """The size that a padded convolution of this stride leaves, ceil(size / stride); elementwise for a tensor."""
    return (size + stride - 1) // stride


def frame_mask(x: Tensor, frames: Tensor | None, stride: int) -> Tensor | None:
    """bool [B, N]: which frames of x [B, ..., N] lie inside their recording; None when all do.

    frames  int64 [B], feature frames of each recording; None: all recordings fill the batch
    """
    if frames is None:
        return None
    return torch.arange(x.shape[-1], device=x.device) < strided_size(frames, stride)[:, None]


def masked(x: Tensor, frames: Tensor | None, stride: int) -> Tensor:
    """x [B, ..., N] with zeros beyond each recording, as a convolution's own padding has them: nothing leaks back."""
    mask = frame_mask(x, frames, stride)
    return x if mask is None else x * mask.view(len(x), *[1] * (x.dim() - 2), -1)
