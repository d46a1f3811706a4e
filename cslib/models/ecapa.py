"""ECAPA-TDNN on log-mel frames, from waveform to embedding (Desplanques et al. 2020, Interspeech, arXiv 2005.07143).

A time-delay network of one-dimensional Res2Net blocks with squeeze-excitation; the outputs of all blocks are
aggregated before attentive pooling. 512 channels: 6.2 million parameters; 1024: 14.7 million.
Shapes: B crops, T samples, F mel bands, N frames, C channels, E embedding size.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cslib.config import UserError
from cslib.models.layers.features import LogMel, SlidingMeanNorm
from cslib.models.layers.masking import frame_mask, masked
from cslib.models.layers.pooling import Pooling, equal_weights, make_pooling

STEM_SIZE = 5  # kernel of the first convolution, in frames


@dataclass
class Config:
    num_mels: int = 80  # log-mel bands, 20 to 7600 Hz
    mean_window: int = 301  # frames of the sliding mean that is subtracted; a shorter crop is centred as a whole
    channels: int = 512  # of every frame layer, a multiple of scale; 1024 is the large network
    dilations: list[int] = field(default_factory=lambda: [2, 3, 4])  # of the convolutions of each block
    scale: int = 8  # parts of a block, each with a wider receptive field than the one before; at least 2
    squeeze: int = 128  # bottleneck of the squeeze-excitation
    aggregation: int = 1536  # channels after the outputs of all blocks are joined
    stem_stride: int = 1  # 2 halves the frames before the first block: half the computation, twice the context
    # statistics: mean and standard deviation; attentive: with learnt weights; context: weights also see the utterance
    pooling: str = "context"
    attention: int = 128  # bottleneck of the attentive poolings
    embedding_size: int = 192  # E


def build(config: Config) -> EcapaTdnn:
    return EcapaTdnn(config)


class EcapaTdnn(nn.Module):
    """Audio [B, T] in [-1, 1] at 16 kHz -> embeddings [B, E], not normalised.

    Raises UserError for an unknown pooling, without blocks, and when `scale` does not divide the channels.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.scale < 2 or config.channels % config.scale:
            raise UserError(
                f"network.scale is {config.scale} and network.channels {config.channels}; the scale must be at least 2 "
                "and divide the channels"
            )
        if not config.dilations:
            raise UserError("network.dilations is empty; give one number for each block")
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
        """audio [B, T], lengths [B] in samples (None: all full) -> [B, E].

        In eval mode an embedding depends neither on the padding nor on the other items of the batch.
        """
        frames = None if lengths is None else self.log_mel.frames(lengths)
        features = self.mean_norm(self.log_mel(audio, lengths), frames)
        x = self.stem(features.transpose(1, 2))  # [B, C, N]
        outputs = []
        for block in self.blocks:
            outputs.append(block(x, frames, self.stride))
            x = x + outputs[-1]  # the input of a block is the sum of all outputs before it (section 3.3)
        x = F.relu(self.aggregate(torch.cat(outputs, dim=1)))
        return self.project(self.pool(x, frame_mask(x, frames, self.stride)))

    def embed(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self(audio, lengths)

    def embedding_layers(self) -> list[nn.Module]:
        """The layers from pooled statistics to the embedding."""
        return [self.project]

    def pooling_layer(self) -> Pooling:
        return self.pool


class FrameLayer(nn.Sequential):
    """Convolution over time, ReLU and batch normalisation; padded so that only the stride changes the length."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1) -> None:
        padding = dilation * (size // 2)
        super().__init__(
            nn.Conv1d(inputs, outputs, size, stride, padding, dilation), nn.ReLU(), nn.BatchNorm1d(outputs)
        )


class SERes2Block(nn.Module):
    """A cascade of dilated convolutions between two 1x1 layers, then squeeze-excitation, beside a shortcut.

    Squeeze-excitation weights each channel by a function of all channels' means over the utterance (section 3.2,
    figure 2).
    """

    def __init__(self, channels: int, scale: int, squeeze: int, dilation: int) -> None:
        super().__init__()
        self.before, self.after = FrameLayer(channels, channels, 1), FrameLayer(channels, channels, 1)
        width = channels // scale
        # The last part has no convolution: the block keeps single frames as well.
        self.parts = nn.ModuleList(FrameLayer(width, width, 3, dilation=dilation) for _ in range(scale - 1))
        self.excite = nn.Sequential(nn.Linear(channels, squeeze), nn.ReLU(), nn.Linear(squeeze, channels), nn.Sigmoid())

    def forward(self, x: Tensor, frames: Tensor | None, stride: int) -> Tensor:
        """x [B, C, N] -> [B, C, N].

        frames  int64 [B], frames of each recording in the features; None: all full
        stride  of x against the features
        """
        *parts, last = masked(self.before(x), frames, stride).chunk(len(self.parts) + 1, dim=1)
        done: list[Tensor] = []
        for layer, part in zip(self.parts, parts, strict=True):
            carried = part + done[-1] if done else part
            done.append(masked(layer(carried), frames, stride))
        y = self.after(torch.cat([*done, last], dim=1))
        # In float32: bfloat16 would round the small weight of each frame.
        mean = (y.float() * equal_weights(y, frame_mask(y, frames, stride))).sum(-1)
        return x + y * self.excite(mean)[..., None]
