"""The floor, a training-free embedding: mean and standard deviation of log-mel frames, whitened."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from cslib.models.layers.features import LogMel
from cslib.models.layers.pooling import StatisticsPooling

VARIANCE_FLOOR = 1e-2  # of the largest variance


class LogMelStatistics(nn.Module):
    """Mean and deviation over time of log-mel frames: audio [B, T], lengths [B] -> [B, 2 num_mels].

    kept  bool [B, frames], the frames that count (None: all)
    """

    def __init__(self, num_mels: int) -> None:
        super().__init__()
        self.log_mel, self.pool = LogMel(num_mels), StatisticsPooling(num_mels)

    def forward(self, audio: Tensor, lengths: Tensor, kept: Tensor | None = None) -> Tensor:
        frames = self.log_mel(audio, lengths).transpose(1, 2)
        inside = torch.arange(frames.shape[-1], device=audio.device) < self.log_mel.frames(lengths)[:, None]
        return self.pool(frames, inside if kept is None else inside & kept)


def whitening_matrix(covariance: np.ndarray, variance_floor: float = VARIANCE_FLOOR) -> np.ndarray:
    """[D, D]: rotates and scales vectors (from the right) to unit variance in every direction.

    Variances below `variance_floor` of the largest are raised to it, so that whitening does not amplify noise.
    """
    variances, directions = np.linalg.eigh(covariance)
    return directions / np.sqrt(np.maximum(variances, variance_floor * variances[-1]))
