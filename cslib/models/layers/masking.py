"""Batches of recordings of unequal length: which samples, or frames after strided layers, lie inside each recording.

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


def full_lengths(audio: Tensor) -> Tensor:
    """int64 [B]: T for every row of audio [B, T], on its device."""
    return torch.full((len(audio),), audio.shape[1], device=audio.device)


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """bool [B, size]: True before the length of each row, int64 [B]."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def frame_mask(x: Tensor, frames: Tensor | None, stride: int) -> Tensor | None:
    """bool [B, N]: which frames of x [B, ..., N] lie inside their recording; None when all do.

    frames  int64 [B], feature frames of each recording; None: all recordings fill the batch
    """
    if frames is None:
        return None
    return length_mask(strided_size(frames, stride), x.shape[-1])


def masked(x: Tensor, frames: Tensor | None, stride: int) -> Tensor:
    """x [B, ..., N] with zeros beyond each recording, as a convolution's own padding has them: nothing leaks back."""
    mask = frame_mask(x, frames, stride)
    return x if mask is None else x * mask.view(len(x), *[1] * (x.dim() - 2), -1)
