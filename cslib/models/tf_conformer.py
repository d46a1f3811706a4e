"""Time-frequency conformer: the generator of CMGAN (Cao et al. 2022, arXiv 2203.15149) with two blocks, not four.

A dense convolutional encoder halves the bands; blocks attend along frames and then along bands; one decoder masks the
compressed magnitude, another adds a complex residual. There is no discriminator. Other differences from CMGAN: batch
and layer norms replace instance norms, so that padding and length have no effect, and the attention has no relative
positions: convolutions encode the order of frames, and a learnt vector identifies each band. 1.24 million parameters.
Shapes: B recordings, L frames, N bands, M = (N + 1) / 2 bands in the blocks, C channels, R rows of length S.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cslib.config import UserError, require
from cslib.models.layers.spectra import (
    COMPRESSION,
    MASK_LIMIT,
    Enhancer,
    SpectralConfig,
    compressed,
    described,
    expanded,
    squared,
)


@dataclass
class Config(SpectralConfig):
    window: int = 400  # samples of the Hann window, a multiple of hop and of 4
    hop: int = 100  # samples from one frame to the next
    channels: int = 64  # C, of all layers; 16, with blocks 1 and hop 200, can be trained on a CPU
    blocks: int = 2  # pairs of conformers, along frames and along bands; CMGAN has 4
    heads: int = 4  # attention heads
    dense_layers: int = 4  # convolutions in each dense block; the dilation doubles from one to the next
    kernel: int = 31  # frames or bands, kernel of the convolution in a conformer; odd
    dropout: float = 0.1  # in the conformers; CMGAN has 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("channels", 1), ("blocks", 0), ("heads", 1), ("dense_layers", 1), ("kernel", 1)):
            require(getattr(self, name) >= least, f"network.{name}", getattr(self, name), f"at least {least}")
        require(self.kernel % 2 == 1, "network.kernel", self.kernel, "odd")
        require(0 <= self.dropout < 1, "network.dropout", self.dropout, "at least 0 and less than 1")
        if self.channels % self.heads:
            raise UserError(
                f"network.heads is {self.heads}; it must be a divisor of network.channels, which is {self.channels}"
            )


def build(config: Config) -> TfConformer:
    return TfConformer(config)


class TfConformer(Enhancer):
    """Noisy audio [B, T] -> enhanced audio [B, T]."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        channels, layers = config.channels, config.dense_layers
        self.encoder = nn.Sequential(
            ConvNorm(nn.Conv2d(3, channels, 1), channels),
            DenseBlock(channels, layers),
            ConvNorm(nn.Conv2d(channels, channels, (1, 3), (1, 2), (0, 1)), channels),
        )
        self.band = nn.Parameter(0.02 * torch.randn((config.bands + 1) // 2, channels))
        self.blocks = nn.ModuleList(TfBlock(config) for _ in range(config.blocks))
        self.to_mask, self.to_residual = decoder(channels, layers, 1), decoder(channels, layers, 2)
        mask, residual = self.to_mask[-1], self.to_residual[-1]
        assert isinstance(mask, nn.Conv2d) and isinstance(residual, nn.Conv2d)
        assert mask.bias is not None and residual.bias is not None
        with torch.no_grad():  # a mask of 1 and a small residual: training starts near the noisy speech
            mask.bias.fill_(-math.log(MASK_LIMIT**COMPRESSION - 1))
            residual.weight.mul_(0.1)
            residual.bias.zero_()

    def estimate(self, spectrum: Tensor, inside: Tensor | None) -> Tensor:
        x = self.encoder(described(spectrum)).permute(0, 2, 3, 1) + self.band  # [B, L, M, C]
        for block in self.blocks:
            x = block(x, inside)
        x = x.permute(0, 3, 1, 2)
        mask = MASK_LIMIT**COMPRESSION * torch.sigmoid(self.to_mask(x)[:, 0].float())
        residual = torch.view_as_complex(self.to_residual(x).float().permute(0, 2, 3, 1).contiguous())
        enhanced = expanded(mask * compressed(spectrum) + residual)
        # Silent frames stay silent, whatever the residual.
        return enhanced * (squared(spectrum).sum(-1, keepdim=True) > 0)


def decoder(channels: int, layers: int, outputs: int) -> nn.Sequential:
    """[B, C, L, M] -> [B, outputs, L, 2 M - 1]."""
    return nn.Sequential(
        DenseBlock(channels, layers),
        ConvNorm(nn.ConvTranspose2d(channels, channels, (1, 3), (1, 2), (0, 1)), channels),
        nn.Conv2d(channels, outputs, 1),
    )


class ConvNorm(nn.Sequential):
    """A convolution, batch normalisation and PReLU."""

    def __init__(self, convolution: nn.Module, channels: int) -> None:
        super().__init__(convolution, nn.BatchNorm2d(channels), nn.PReLU(channels))


class DenseBlock(nn.Module):
    """Convolutions that each see the outputs of all before them: [B, C, L, M] -> [B, C, L, M].

    They are causal, with a kernel of two frames and dilations 1, 2, 4, ...: padding after a recording cannot leak in.
    """

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ConvNorm(
                nn.Conv2d(channels * (depth + 1), channels, (2, 3), padding=(0, 1), dilation=(2**depth, 1)), channels
            )
            for depth in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for depth, layer in enumerate(self.layers):
            x = layer(F.pad(seen, (0, 0, 2**depth, 0)))
            seen = torch.cat([x, seen], dim=1) if depth + 1 < len(self.layers) else x
        return x


class TfBlock(nn.Module):
    """A conformer along the frames of each band, then one along the bands of each frame: [B, L, M, C] -> same."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.along, self.across = Conformer(config), Conformer(config)

    def forward(self, x: Tensor, inside: Tensor | None) -> Tensor:
        batch, frames, bands, _ = x.shape
        rows_inside = None if inside is None else inside.repeat_interleave(bands, 0)
        rows = x.transpose(1, 2).flatten(0, 1)  # [B M, L, C]
        x = x + self.along(rows, rows_inside).unflatten(0, (batch, bands)).transpose(1, 2)
        return x + self.across(x.flatten(0, 1), None).unflatten(0, (batch, frames))


class Conformer(nn.Module):
    """Half-step feed-forward, attention, convolution, feed-forward (Gulati et al. 2020): [R, S, C] -> same."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        channels = config.channels
        self.first, self.last = (feed_forward(channels, config.dropout) for _ in range(2))
        self.attention = Attention(channels, config.heads)
        self.convolution = Convolution(channels, config.kernel)
        self.dropout, self.norm = nn.Dropout(config.dropout), nn.LayerNorm(channels)

    def forward(self, rows: Tensor, inside: Tensor | None) -> Tensor:
        rows = rows + 0.5 * self.first(rows)
        rows = rows + self.dropout(self.attention(rows, inside))
        rows = rows + self.dropout(self.convolution(rows, inside))
        return self.norm(rows + 0.5 * self.last(rows))


def feed_forward(channels: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(channels),
        nn.Linear(channels, 4 * channels),
        nn.SiLU(),
        nn.Dropout(dropout),
        nn.Linear(4 * channels, channels),
        nn.Dropout(dropout),
    )


class Attention(nn.Module):
    """Self-attention along the rows: [R, S, C], bool [R, S] (inside the recording) -> [R, S, C].

    Memory grows linearly with S where torch has a fused kernel.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(channels)
        self.project, self.output = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, rows: Tensor, inside: Tensor | None) -> Tensor:
        projected = self.project(self.norm(rows)).unflatten(-1, (3, self.heads, -1))  # [R, S, 3, heads, -]
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        mask = None if inside is None else inside[:, None, None]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.output(attended.transpose(1, 2).flatten(2))


class Convolution(nn.Module):
    """Gated depthwise convolution along the rows: [R, S, C], bool [R, S] (inside the recording) -> [R, S, C]."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.norm_in, self.gate = nn.LayerNorm(channels), nn.Linear(channels, 4 * channels)
        self.depthwise = nn.Conv1d(2 * channels, 2 * channels, kernel, padding=kernel // 2, groups=2 * channels)
        self.norm_out, self.output = nn.LayerNorm(2 * channels), nn.Linear(2 * channels, channels)

    def forward(self, rows: Tensor, inside: Tensor | None) -> Tensor:
        gated = F.glu(self.gate(self.norm_in(rows)), dim=-1)
        if inside is not None:
            gated = gated * inside[..., None]
        mixed = self.depthwise(gated.transpose(1, 2)).transpose(1, 2)
        return self.output(F.silu(self.norm_out(mixed)))
