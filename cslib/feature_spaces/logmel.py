"""Log-mel frames at several resolutions: a feature space without training, for small corpora and tests."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from cslib.feature_spaces.base import FeatureSpaceConfig
from cslib.models.layers.features import LogMel


def build(config: FeatureSpaceConfig) -> LogMelPyramid:
    config.refuse("checkpoint", "bundle")
    return LogMelPyramid(config.groups or 4)


class LogMelPyramid(nn.Module):
    """audio [B, T] -> log-mel frames [B, N, F], and their means over 2 x 2, 4 x 4, ... values."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups, self.log_mel = groups, LogMel()

    def forward(self, audio: Tensor) -> list[Tensor]:
        levels = [self.log_mel(audio)]
        for _ in range(self.groups - 1):
            levels.append(F.avg_pool2d(levels[-1], 2, ceil_mode=True))
        return levels
