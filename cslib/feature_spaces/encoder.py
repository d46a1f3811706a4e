"""The stages of an encoder that this project has trained without labels: the space that needs nothing from elsewhere.

Deep stages of a speaker encoder have learnt to leave noise and words out; early ones keep both. All are given.
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
            "space.checkpoint: the space `encoder` needs the final.pt of an encoder; train one, or use the space logmel"
        )
    encoder = load_encoder(config.checkpoint)
    if not isinstance(encoder, Staged):
        raise UserError(
            f"{config.checkpoint}: its network, {type(encoder).__name__}, has no stages to compare in; "
            "give a resnet or a galr"
        )
    return EncoderStages(encoder)


class EncoderStages(nn.Module):
    """audio [B, T] -> the output of every stage (see `stages` of the network)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        with torch.no_grad():
            self.groups = len(encoder.stages(torch.zeros(1, SAMPLE_RATE // 2)))

    def forward(self, audio: Tensor) -> list[Tensor]:
        return self.encoder.stages(audio)
