"""ECAPA-TDNN on log-mel frames, waveform to embedding (Desplanques et al. 2020, Interspeech, arXiv 2005.07143).

A time-delay network of one-dimensional Res2Net blocks with squeeze and excitation, whose layers are all seen by
an attentive pooling. 512 channels: 6.2 million parameters; 1024: 14.7 million.
Shapes: B crops, T samples, F mel bands, N frames, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cslib.config import UserError
from cslib.models.layers.features import LogMel, SlidingMeanNorm
from cslib.models.layers.pooling import equal_weights, make_pooling
from cslib.models.resnet import frame_mask, masked

STEM_SIZE = 5  # frames that the first convolution sees


@dataclass
class Config:
    num_mels: int = 80  # log-mel bands, 20 to 7600 Hz
    mean_window: int = 301  # frames of the sliding mean that is subtracted; a shorter crop loses its own mean
    channels: int = 512  # of every frame layer; a multiple of scale. 1024 is the large network
    dilations: list[int] = field(default_factory=lambda: [2, 3, 4])  # of the blocks, one for each
    scale: int = 8  # parts into which a block splits its channels, each seeing wider than the one before; 2 or more
    squeeze: int = 128  # bottleneck of the squeeze and excitation
    aggregation: int = 1536  # channels into which the outputs of all blocks are joined
    stem_stride: int = 1  # 2 halves the frames before the first block: half of the work, twice the context
    # statistics: mean and standard deviation; attentive: with learnt weights; context: learnt by the whole as well
    pooling: str = "context"
    attention: int = 128  # bottleneck of the attentive poolings
    embedding_size: int = 192


def build(config: Config) -> EcapaTdnn:
    return EcapaTdnn(config)


class EcapaTdnn(nn.Module):
    """Audio [B, T] in [-1, 1] -> embeddings [B, E], not normalised.

    Raises UserError when the configuration names no pooling or no block, or the channels do not split evenly.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.scale < 2 or config.channels % config.scale:
            raise UserError("network.channels and network.scale: give a scale of 2 or more that divides the channels")
        if not config.dilations:
            raise UserError("network.dilations: give one number for each block")
        self.embedding_size, self.stride = config.embedding_size, config.stem_stride
        self.log_mel, self.mean_norm = LogMel(config.num_mels), SlidingMeanNorm(config.mean_window)
        self.stem = FrameLayer(config.num_mels, config.channels, STEM_SIZE, stride=config.stem_stride)
        self.blocks = nn.ModuleList(
            SERes2Block(config.channels, config.scale, config.squeeze, dilation) for dilation in config.dilations
        )
        self.aggregate = nn.Conv1d(len(config.dilations) * config.channels, config.aggregation, 1)
        self.pool = make_pooling(config.pooling, config.aggregation, config.attention)
        self.project = nn.Sequential(
            nn.BatchNorm1d(self.pool.output_size),
            nn.Linear(self.pool.output_size, config.embedding_size),
            nn.BatchNorm1d(config.embedding_size),
        )

    def forward(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """audio [B, T], lengths [B] in samples (all full when None) -> [B, E].

        In eval mode what lies beyond an utterance's length, or beside it in the batch, changes nothing.
        """
        frames = None if lengths is None else self.log_mel.frames(lengths)
        features = self.mean_norm(self.log_mel(audio, lengths), frames)
        x = self.stem(features.transpose(1, 2))  # [B, C, N]
        outputs = []
        for block in self.blocks:
            outputs.append(block(x, frames, self.stride))
            x = x + outputs[-1]  # a block's input is the sum of all before it (section 3.3)
        x = F.relu(self.aggregate(torch.cat(outputs, dim=1)))
        return self.project(self.pool(x, frame_mask(x, frames, self.stride)))

    def embed(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self(audio, lengths)

    def embedding_layers(self) -> list[nn.Module]:
        """What makes the embedding of pooled statistics: fine-tuning may train it before all else."""
        return [self.project]


class FrameLayer(nn.Sequential):
    """Convolution over time, ReLU, batch normalisation; padded so that only the stride changes the length."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1) -> None:
        padding = dilation * (size // 2)
        super().__init__(
            nn.Conv1d(inputs, outputs, size, stride, padding, dilation), nn.ReLU(), nn.BatchNorm1d(outputs)
        )


class SERes2Block(nn.Module):
    """Dilated convolutions in a cascade of parts between two mixing layers, then a weight for each channel from
    what the utterance is like on average; beside a shortcut (section 3.2, figure 2).
    """

    def __init__(self, channels: int, scale: int, squeeze: int, dilation: int) -> None:
        super().__init__()
        self.before, self.after = FrameLayer(channels, channels, 1), FrameLayer(channels, channels, 1)
        width = channels // scale
        # The last part is passed on as it is, so that the block keeps a view of single frames.
        self.parts = nn.ModuleList(FrameLayer(width, width, 3, dilation=dilation) for _ in range(scale - 1))
        self.excite = nn.Sequential(nn.Linear(channels, squeeze), nn.ReLU(), nn.Linear(squeeze, channels), nn.Sigmoid())

    def forward(self, x: Tensor, frames: Tensor | None, stride: int) -> Tensor:
        """x [B, C, N] -> [B, C, N]; frames [B] in the features, or None; stride of x against the features."""
        *parts, last = masked(self.before(x), frames, stride).chunk(len(self.parts) + 1, dim=1)
        done: list[Tensor] = []
        for layer, part in zip(self.parts, parts, strict=True):
            carried = part + done[-1] if done else part
            done.append(masked(layer(carried), frames, stride))
        y = self.after(torch.cat([*done, last], dim=1))
        # In float32: bfloat16 would round each of many frames' shares.
        mean = (y.float() * equal_weights(y, frame_mask(y, frames, stride))).sum(-1)
        return x + y * self.excite(mean)[..., None]
