"""Waveforms to frames and back: what a mask acts on.

Shapes: B signals, T samples, L frames, N bands, C streams. Windows overlap by half.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LearntFilterbank(nn.Module):
    """Rectified filters that are learnt, and others that turn masked frames back (as TasNet and GALR have them)."""

    def __init__(self, filters: int, window: int) -> None:
        super().__init__()
        self.bands = filters
        self.analysis = nn.Conv1d(1, filters, window, window // 2, bias=False)
        self.synthesis = nn.ConvTranspose1d(filters, 1, window, window // 2, bias=False)

    def analyse(self, padded: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T] -> what describes the frames [B, L, N], and what `synthesise` masks."""
        frames = F.relu(self.analysis(padded[:, None])).transpose(1, 2)
        return frames, frames

    def synthesise(self, masks: Tensor, frames: Tensor) -> Tensor:
        """masks [B, L, C, N], frames of `analyse` -> [B, C, T]."""
        masked = (masks * frames[:, :, None]).permute(0, 2, 3, 1)
        return self.synthesis(masked.flatten(0, 1))[:, 0].unflatten(0, masked.shape[:2])


class FourierFilterbank(nn.Module):
    """Fixed sines and cosines under the root of a Hann window: masks act on magnitudes, and phases are kept.

    A mask of one gives the signal back. Nothing is learnt here, so long windows are cheap on a CPU.
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self.bands, self.hop = window // 2 + 1, window // 2
        turns = torch.arange(self.bands, dtype=torch.float64)[:, None] * torch.arange(window) / window
        shape = torch.hann_window(window, dtype=torch.float64).sqrt()
        filters = torch.stack([torch.cos(2 * math.pi * turns), -torch.sin(2 * math.pi * turns)]) * shape
        # The inverse transform counts the bands between the first and the last one twice.
        weights = torch.full((self.bands, 1), 2.0 / window, dtype=torch.float64)
        weights[0] = weights[-1] = 1.0 / window
        self.register_buffer("filters", filters.flatten(0, 1)[:, None].float(), persistent=False)
        self.register_buffer("inverse", (filters * weights).flatten(0, 1)[:, None].float(), persistent=False)

    def analyse(self, padded: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T] -> magnitudes [B, L, N] and the complex spectrum, real parts before imaginary ones [B, L, 2, N]."""
        spectrum = F.conv1d(padded[:, None], self.filters, stride=self.hop)
        spectrum = spectrum.transpose(1, 2).unflatten(-1, (2, self.bands))
        return (spectrum.square().sum(2) + 1e-12).sqrt(), spectrum

    def synthesise(self, masks: Tensor, spectrum: Tensor) -> Tensor:
        """masks [B, L, C, N], spectrum of `analyse` -> [B, C, T]."""
        masked = (masks[:, :, :, None] * spectrum[:, :, None]).flatten(3).permute(0, 2, 3, 1)
        waves = F.conv_transpose1d(masked.flatten(0, 1), self.inverse.to(masked.dtype), stride=self.hop)
        return waves[:, 0].unflatten(0, masked.shape[:2])
