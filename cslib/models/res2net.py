"""Res2Net50 on log-mel frames, from waveform to embedding (Gao et al. 2019, arXiv 1904.01169; with a stem for speech).

A ResNet of bottleneck blocks whose middle convolution is a cascade: the channels are split into `scale` parts, and
the convolution of each part also sees the output of the part before. One block thus covers several receptive fields.
The default is Res2Net50 w26s8 (width 26, scale 8), 56.8 million parameters; `scale: 4` is w26s4, 34.1 million.

The blocks have the published sizes, which are for images. That speaker networks also begin with 64 channels is
inferred: only then do their published width factors, 3.25 (scale 8) and 1.625 (scale 4), both give parts of 26
channels. Their parameter counts are not published; those above follow from the architecture.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cslib.config import UserError, require
from cslib.models import resnet
from cslib.models.layers.masking import masked
from cslib.models.resnet import ConvNorm, ResidualBlock, ResNet

EXPANSION = 4  # output channels of a block, relative to the channels of its stage
BASE_CHANNELS = 64  # channels of the stage to which base_width refers


@dataclass
class Config(resnet.Config):
    # channels of each stage; its blocks have four times as many output channels
    channels: list[int] = field(default_factory=lambda: [64, 128, 256, 512])
    blocks: list[int] = field(default_factory=lambda: [3, 4, 6, 3])  # bottleneck blocks in each stage
    base_width: int = 26  # channels of one part in a stage of 64 channels, proportionally more in the others
    scale: int = 8  # parts of the middle convolution, each with a wider receptive field than the one before; at least 2


def build(config: Config) -> ResNet:
    """Raises UserError as ResNet does, and when the channels of a block cannot be split into `scale` parts."""
    require(config.scale >= 2, "network.scale", config.scale, "at least 2 (with 1 part, use the network resnet)")
    return ResNet(config, partial(Res2Block, base_width=config.base_width, scale=config.scale))


class Res2Block(ResidualBlock):
    """Bottleneck of a 1x1, a cascade of 3x3 and a 1x1 convolution beside a shortcut (Gao et al. 2019, figure 2).

    inputs      input channels
    channels    channels of the stage; the block has EXPANSION times as many output channels
    base_width  channels of each of the `scale` parts in a stage of 64 channels
    Raises UserError when a part would have no channel.
    """

    def __init__(self, inputs: int, channels: int, stride: int, *, base_width: int, scale: int) -> None:
        super().__init__(stride, EXPANSION * channels)
        width = channels * base_width // BASE_CHANNELS
        if width < 1:
            raise UserError(
                f"network.base_width is {base_width}, which leaves no channel for a part in a stage of {channels} "
                "channels; give more"
            )
        self.reduce = ConvNorm(inputs, scale * width, 1, 1)
        # The last part is passed on without a convolution.
        self.parts = nn.ModuleList(ConvNorm(width, width, 3, stride) for _ in range(scale - 1))
        self.expand = ConvNorm(scale * width, self.outputs, 1, 1)
        same = stride == 1 and inputs == self.outputs
        self.shortcut = nn.Identity() if same else ConvNorm(inputs, self.outputs, 1, stride)

    def forward(self, x: Tensor, frames: Tensor | None, stride: int) -> Tensor:
        y = masked(F.relu(self.reduce(x)), frames, stride // self.stride)
        *parts, last = y.chunk(len(self.parts) + 1, dim=1)
        done: list[Tensor] = []
        for convolution, part in zip(self.parts, parts, strict=True):
            # With a stride, outputs are smaller than the parts that follow: each part is convolved on its own.
            carried = part + done[-1] if done and self.stride == 1 else part
            done.append(masked(F.relu(convolution(carried)), frames, stride))
        if self.stride > 1:
            last = F.avg_pool2d(last, 3, self.stride, padding=1)
        y = self.expand(torch.cat([*done, last], dim=1))
        return F.relu(y + self.shortcut(x))  # not masked: only 1x1 convolutions follow before the next mask
