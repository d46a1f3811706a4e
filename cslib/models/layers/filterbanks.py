"""Waveforms to frames and back: what a mask acts on.

Shapes: B signals, T samples, L frames, N bands, C streams. Windows overlap by half.
"""

from __future__ import annotations

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
    """Short-time Fourier transform under the root of a Hann window: masks act on magnitudes, and phases are kept.

    A mask of one gives the signal back. Nothing is learnt here, so long windows are cheap on a CPU.
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self.bands, self.hop = window // 2 + 1, window // 2
        shape = torch.hann_window(window, dtype=torch.float64).sqrt().float()
        self.register_buffer("shape", shape, persistent=False)

    def analyse(self, padded: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T] -> magnitudes [B, L, N] and the complex spectrum [B, L, N]."""
        spectrum = torch.fft.rfft(padded.float().unfold(-1, len(self.shape), self.hop) * self.shape)
        # Not abs(): its gradient is undefined where a spectrum is zero.
        return (spectrum.real.square() + spectrum.imag.square() + 1e-12).sqrt(), spectrum

    def synthesise(self, masks: Tensor, spectrum: Tensor) -> Tensor:
        """masks [B, L, C, N], spectrum of `analyse` -> [B, C, T]."""
        masked = masks.float().transpose(1, 2) * spectrum[:, None]
        return overlapped(torch.fft.irfft(masked, n=len(self.shape)) * self.shape, self.hop)


def overlapped(windows: Tensor, hop: int) -> Tensor:
    """Windows [B, C, L, 2 hop], each half over the one before, to their sum [B, C, T]."""
    first, second = windows.split(hop, dim=-1)
    return (F.pad(first, (0, 0, 0, 1)) + F.pad(second, (0, 0, 1, 0))).flatten(2)
