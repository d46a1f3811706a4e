"""The stages of a speaker encoder of this project, trained without labels: it needs no external model.

Deep stages of a speaker encoder discard noise and words; early stages keep both. All stages are groups.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cslib.checkpoints import load_encoder
from cslib.config import UserError
from cslib.data.manifests import SAMPLE_RATE
from cslib.feature_spaces.base import FeatureSpaceConfig
from cslib.models.base import Staged


def build(config: FeatureSpaceConfig) -> EncoderStages:
    config.refuse("bundle", "groups")
    if config.checkpoint is None:
        raise UserError(
            "checkpoint of the feature space: encoder needs the final.pt of a speaker encoder; train one, or use logmel"
        )
    encoder = load_encoder(config.checkpoint)
    if not isinstance(encoder, Staged):
        raise UserError(
            f"{config.checkpoint}: its network, {type(encoder).__name__}, has no stages to compare in; give the "
            "final.pt of a resnet or a galr"
        )
    return EncoderStages(encoder)


class EncoderStages(nn.Module):
    """audio [B, T] -> the output of each stage, [B, ...]."""

    def __init__(self, encoder: Staged) -> None:
        super().__init__()
        self.encoder = encoder
        with torch.no_grad():
            self.groups = len(encoder.stages(torch.zeros(1, SAMPLE_RATE // 2)))

    def forward(self, audio: Tensor) -> list[Tensor]:
        return self.encoder.stages(audio)
