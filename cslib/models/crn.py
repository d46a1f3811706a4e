"""Convolutional-recurrent enhancement on power-compressed spectra: a small U-Net with a dual-path bottleneck.

It follows CRN (Tan and Wang 2018) and DPCRN (Le et al. 2021, arXiv 2107.05429): strided convolutions halve the bands,
recurrent layers run along bands and along frames, transposed convolutions with skip connections restore the bands,
and a bounded complex ratio mask is applied to the noisy spectrum. 0.33 million parameters.
Shapes: B recordings, L frames, N bands, M bands in the bottleneck, C its channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cslib.config import require
from cslib.models.layers.spectra import Enhancer, SpectralConfig, complex_ratio_mask, described, recur, unit_mask

FRAMES, BANDS = 3, 5  # kernel of the convolutions


@dataclass
class Config(SpectralConfig):
    channels: list[int] = field(default_factory=lambda: [16, 32, 48, 64])  # of each stage; a stage halves the bands
    recurrent_blocks: int = 2  # dual-path blocks: along bands, then along frames
    causal: bool = False  # look ahead by no more than one window (512 samples are 32 ms)

    def __post_init__(self) -> None:
        super().__post_init__()
        good = bool(self.channels) and min(self.channels) >= 1 and self.channels[-1] % 2 == 0
        require(good, "network.channels", self.channels, "one or more positive numbers, the last one even")
        require(self.recurrent_blocks >= 0, "network.recurrent_blocks", self.recurrent_blocks, "at least 0")


def build(config: Config) -> Crn:
    return Crn(config)


class Crn(Enhancer):
    """Noisy audio [B, T] -> enhanced audio [B, T].

    With `causal`, convolutions and recurrences see past frames only, and the level is a running mean. (In training mode
    batch normalisation still uses all frames.) A sample of the output depends on the frames that contain it, so the
    look-ahead is window - 1 samples, for long recordings as well.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.causal = config.causal
        widths, bands = [3, *config.channels], [config.bands]
        for _ in config.channels:
            bands.append((bands[-1] + 1) // 2)
        self.encoder = nn.ModuleList(
            Down(inputs, outputs, config.causal) for inputs, outputs in zip(widths, widths[1:], strict=False)
        )
        self.bottleneck = nn.ModuleList(DualPath(widths[-1], config.causal) for _ in range(config.recurrent_blocks))
        stages = range(len(config.channels), 0, -1)
        decoder = [
            Up(2 * widths[stage], widths[stage - 1] if stage > 1 else 2, bands[stage - 1], config.causal, stage == 1)
            for stage in stages
        ]
        self.decoder = nn.ModuleList(decoder)
        mask = decoder[-1].convolution
        assert mask.bias is not None  # the last stage has one
        with torch.no_grad():  # nearly a mask of 1: training starts near the noisy speech
            mask.weight.mul_(0.1)
            mask.bias.copy_(torch.tensor([unit_mask(), 0.0]))

    def estimate(self, spectrum: Tensor, inside: Tensor | None) -> Tensor:
        x, skipped = _masked(described(spectrum), inside), []
        for stage in self.encoder:
            x = _masked(stage(x), inside)
            skipped.append(x)
        x = x.permute(0, 2, 3, 1)
        for block in self.bottleneck:
            x = block(x, inside)
        x = x.permute(0, 3, 1, 2)
        for stage in self.decoder:
            x = stage(_masked(torch.cat([x, skipped.pop()], dim=1), inside))
        return complex_ratio_mask(x.permute(0, 2, 3, 1)) * spectrum


class Down(nn.Module):
    """Halve the bands, keep the frames: [B, inputs, L, N] -> [B, outputs, L, (N + 1) // 2]."""

    def __init__(self, inputs: int, outputs: int, causal: bool) -> None:
        super().__init__()
        self.before = FRAMES - 1 if causal else FRAMES // 2
        self.convolution = nn.Conv2d(inputs, outputs, (FRAMES, BANDS), (1, 2), (0, BANDS // 2), bias=False)
        self.norm, self.activation = nn.BatchNorm2d(outputs), nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (0, 0, self.before, FRAMES - 1 - self.before))
        return self.activation(self.norm(self.convolution(padded)))


class Up(nn.Module):
    """Restore the bands: [B, inputs, L, (bands + 1) // 2] -> [B, outputs, L, bands]; linear if `last`."""

    def __init__(self, inputs: int, outputs: int, bands: int, causal: bool, last: bool) -> None:
        super().__init__()
        self.first = 0 if causal else FRAMES // 2
        self.convolution = nn.ConvTranspose2d(
            inputs, outputs, (FRAMES, BANDS), (1, 2), (0, BANDS // 2), output_padding=(0, 1 - bands % 2), bias=last
        )
        self.norm = nn.Identity() if last else nn.BatchNorm2d(outputs)
        self.activation = nn.Identity() if last else nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        # Frame t of the transposed convolution depends on frames t - 2, t - 1 and t of its input.
        y = self.convolution(x)[:, :, self.first : self.first + x.shape[2]]
        return self.activation(self.norm(y))


class DualPath(nn.Module):
    """A GRU along the bands of each frame, then one along the frames of each band: [B, L, M, C] -> same."""

    def __init__(self, channels: int, causal: bool) -> None:
        super().__init__()
        self.across = nn.GRU(channels, channels // 2, batch_first=True, bidirectional=True)
        self.along = nn.GRU(channels, channels if causal else channels // 2, batch_first=True, bidirectional=not causal)
        self.across_out = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.along_out = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))

    def forward(self, x: Tensor, inside: Tensor | None) -> Tensor:
        batch, frames, bands, _ = x.shape
        x = x + self.across_out(self.across(x.flatten(0, 1))[0]).unflatten(0, (batch, frames))
        rows = x.transpose(1, 2).flatten(0, 1)  # [B M, L, C]
        return x + self.along_out(recur(self.along, rows, inside)).unflatten(0, (batch, bands)).transpose(1, 2)


def _masked(x: Tensor, inside: Tensor | None) -> Tensor:
    """x [B, C, L, N] with zeros outside `inside` bool [B, L], as a convolution's own padding has them."""
    return x if inside is None else x * inside[:, None, :, None]
