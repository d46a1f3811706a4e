"""Res2Net50 on log-mel frames, waveform to embedding (Gao et al. 2019, arXiv 1904.01169; stem for speech).

ResNet's frame with bottleneck blocks whose middle convolution is a cascade: the channels are split into `scale`
parts, and each part sees what the part before made of its own, so that one block looks at many extents at once.
The default is Res2Net50 w26s8 (width 26, scale 8), 56.8 million parameters; `scale: 4` makes w26s4, 34.1 million.

The blocks have the size of the published ones for images. That the speaker networks also begin with 64 channels is
inferred: only so do the width factors 3.25 (scale 8) and 1.625 (scale 4), by which they are told, both give parts
of 26 channels. No parameter count is known for them; those above follow from the architecture.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cslib.config import UserError
from cslib.models import resnet
from cslib.models.resnet import ConvNorm, ResNet, masked

EXPANSION = 4  # a block gives out this many times the channels of its stage
BASE_CHANNELS = 64  # of a stage, to which base_width refers


@dataclass
class Config(resnet.Config):
    # of each stage; its blocks give out four times as many
    channels: list[int] = field(default_factory=lambda: [64, 128, 256, 512])
    blocks: list[int] = field(default_factory=lambda: [3, 4, 6, 3])  # bottleneck blocks in each stage
    base_width: int = 26  # channels of one part, where the stage has 64; in proportion in the others
    scale: int = 8  # parts of the middle convolution, each seeing wider than the one before; 2 or more


def build(config: Config) -> ResNet:
    """The network. Raises UserError as ResNet does, and when a block cannot be split as asked."""
    if config.scale < 2:
        raise UserError(f"network.scale: {config.scale} will not do; give 2 or more, or take the network resnet")
    return ResNet(config, partial(Res2Block, base_width=config.base_width, scale=config.scale))


class Res2Block(nn.Module):
    """Bottleneck of 1x1, a cascade of 3x3 and 1x1 convolutions beside a shortcut (Gao et al. 2019, figure 2).

    inputs      channels that come in
    channels    of the stage: EXPANSION times as many go out
    base_width  channels of each of the `scale` parts, in a stage of 64
    Raises UserError when a part would have no channel.
    """

    def __init__(self, inputs: int, channels: int, stride: int, *, base_width: int, scale: int) -> None:
        super().__init__()
        width = channels * base_width // BASE_CHANNELS
        if width < 1:
            raise UserError(f"network.base_width: {base_width} leaves no channel for a part in a stage of {channels}")
        self.stride, self.outputs = stride, EXPANSION * channels
        self.reduce = ConvNorm(inputs, scale * width, 1, 1)
        # The last part is passed on without a convolution.
        self.parts = nn.ModuleList(ConvNorm(width, width, 3, stride) for _ in range(scale - 1))
        self.expand = ConvNorm(scale * width, self.outputs, 1, 1)
        same = stride == 1 and inputs == self.outputs
        self.shortcut = nn.Identity() if same else ConvNorm(inputs, self.outputs, 1, stride)

    def forward(self, x: Tensor, frames: Tensor | None, stride: int) -> Tensor:
        """frames [B] in the features, or None; stride of the block's output against the features."""
        y = masked(F.relu(self.reduce(x)), frames, stride // self.stride)
        *parts, last = y.chunk(len(self.parts) + 1, dim=1)
        done: list[Tensor] = []
        for convolution, part in zip(self.parts, parts, strict=True):
            # Where the block shrinks its input, the part before has another size: each part goes alone.
            carried = part + done[-1] if done and self.stride == 1 else part
            done.append(masked(F.relu(convolution(carried)), frames, stride))
        if self.stride > 1:
            last = F.avg_pool2d(last, 3, self.stride, padding=1)
        y = self.expand(torch.cat([*done, last], dim=1))
        return F.relu(y + self.shortcut(x))  # 1x1 convolutions come next: past the end may stand what will
