"""Convolutional-recurrent enhancement on power-compressed spectra: a small U-Net with a dual-path bottleneck.

The family is that of CRN (Tan and Wang 2018) and DPCRN (Le et al. 2021, arXiv 2107.05429): convolutions halve the
bands, recurrences along bands and along frames see the whole, transposed convolutions come back beside
skip connections, and a bounded complex ratio mask is put on the noisy spectrum. 0.33 million parameters.
Shapes: B recordings, L frames, N bands, M bands of the bottleneck, C its channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cslib.config import UserError
from cslib.models.layers.spectra import Enhancer, SpectralConfig, complex_ratio_mask, described, recur, unit_mask

FRAMES, BANDS = 3, 5  # that a convolution spans


@dataclass
class Config(SpectralConfig):
    channels: list[int] = field(default_factory=lambda: [16, 32, 48, 64])  # of each stage; each halves the bands
    recurrent_blocks: int = 2  # each along bands, then along frames
    causal: bool = False  # look no further ahead than the window reaches: 32 ms with 512 samples

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.channels or min(self.channels) < 1 or self.channels[-1] % 2:
            raise UserError(
                f"network.channels: {self.channels} will not do; give one or more numbers of 1 or more, "
                "the last one even"
            )
        if self.recurrent_blocks < 0:
            raise UserError(f"network.recurrent_blocks: {self.recurrent_blocks} will not do; give 0 or more")


def build(config: Config) -> Crn:
    return Crn(config)


class Crn(Enhancer):
    """Noisy audio [B, T] -> enhanced audio [B, T].

    causal  Convolutions and recurrences then see the past only, and the level is the mean up to each frame. (In
            training mode batch normalisation still sees all frames.) A sample of the output waits for the frames it
            lies in: window - 1 samples of look-ahead. Windows of long recordings keep that.
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
        self.decoder = nn.ModuleList(
            Up(2 * widths[stage], widths[stage - 1] if stage > 1 else 2, bands[stage - 1], config.causal, stage == 1)
            for stage in stages
        )
        with torch.no_grad():  # nearly a mask of one: learning starts from the noisy speech, not from something worse
            self.decoder[-1].convolution.weight.mul_(0.1)
            self.decoder[-1].convolution.bias.copy_(torch.tensor([unit_mask(), 0.0]))

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
    """Half the bands, as many frames: [B, inputs, L, N] -> [B, outputs, L, (N + 1) // 2]."""

    def __init__(self, inputs: int, outputs: int, causal: bool) -> None:
        super().__init__()
        self.before = FRAMES - 1 if causal else FRAMES // 2
        self.convolution = nn.Conv2d(inputs, outputs, (FRAMES, BANDS), (1, 2), (0, BANDS // 2), bias=False)
        self.norm, self.activation = nn.BatchNorm2d(outputs), nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (0, 0, self.before, FRAMES - 1 - self.before))
        return self.activation(self.norm(self.convolution(padded)))


class Up(nn.Module):
    """Back to `bands`: [B, inputs, L, (bands + 1) // 2] -> [B, outputs, L, bands]; the last one is linear."""

    def __init__(self, inputs: int, outputs: int, bands: int, causal: bool, last: bool) -> None:
        super().__init__()
        self.first = 0 if causal else FRAMES // 2
        self.convolution = nn.ConvTranspose2d(
            inputs, outputs, (FRAMES, BANDS), (1, 2), (0, BANDS // 2), output_padding=(0, 1 - bands % 2), bias=last
        )
        self.norm = nn.Identity() if last else nn.BatchNorm2d(outputs)
        self.activation = nn.Identity() if last else nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        # Frame t of the transposed convolution holds frames t - 2, t - 1 and t of its input.
        y = self.convolution(x)[:, :, self.first : self.first + x.shape[2]]
        return self.activation(self.norm(y))


class DualPath(nn.Module):
    """A recurrence along the bands of each frame, then one along the frames of each band: [B, L, M, C] -> same."""

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
    """Zeros beyond the recording, as a convolution's own padding has them: [B, C, L, N], bool [B, L]."""
    return x if inside is None else x * inside[:, None, :, None]
