"""Filterbanks for separation by masks: from waveforms to frames and back.

Shapes: B signals, T samples, L frames, N bands, C streams. Windows overlap by half.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Filterbank(nn.Module):
    """Analysis and synthesis of signals; masks act in between."""

    bands: int  # N

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.bands = bands

    def analyse(self, padded: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T] -> non-negative frames [B, L, N] for the network, and what `synthesise` masks [B, L, N]."""
        raise NotImplementedError

    def synthesise(self, masks: Tensor, carrier: Tensor) -> Tensor:
        """masks [B, L, C, N], second output of `analyse` -> [B, C, T]."""
        raise NotImplementedError


class LearntFilterbank(Filterbank):
    """Learnt filters with rectified outputs, and learnt filters for synthesis (as in TasNet and GALR)."""

    def __init__(self, filters: int, window: int) -> None:
        super().__init__(filters)
        self.analysis = nn.Conv1d(1, filters, window, window // 2, bias=False)
        self.synthesis = nn.ConvTranspose1d(filters, 1, window, window // 2, bias=False)

    def analyse(self, padded: Tensor) -> tuple[Tensor, Tensor]:
        frames = F.relu(self.analysis(padded[:, None])).transpose(1, 2)
        return frames, frames

    def synthesise(self, masks: Tensor, carrier: Tensor) -> Tensor:
        masked = (masks * carrier[:, :, None]).permute(0, 2, 3, 1)
        return self.synthesis(masked.flatten(0, 1))[:, 0].unflatten(0, masked.shape[:2])


class FourierFilterbank(Filterbank):
    """Short-time Fourier transform with a square-root Hann window; masks act on magnitudes and keep the phase.

    A mask of 1 reconstructs the signal. Nothing is learnt, so long windows are cheap on a CPU.
    """

    shape: Tensor

    def __init__(self, window: int) -> None:
        super().__init__(window // 2 + 1)
        self.hop = window // 2
        shape = torch.hann_window(window, dtype=torch.float64).sqrt().float()
        self.register_buffer("shape", shape, persistent=False)

    def analyse(self, padded: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T] -> magnitudes [B, L, N], complex spectrum [B, L, N]."""
        spectrum = torch.fft.rfft(padded.float().unfold(-1, len(self.shape), self.hop) * self.shape)
        # Not abs(), whose gradient is undefined where the spectrum is zero.
        return (spectrum.real.square() + spectrum.imag.square() + 1e-12).sqrt(), spectrum

    def synthesise(self, masks: Tensor, carrier: Tensor) -> Tensor:
        masked = masks.float().transpose(1, 2) * carrier[:, None]
        return overlapped(torch.fft.irfft(masked, n=len(self.shape)) * self.shape, self.hop)


def overlapped(windows: Tensor, hop: int) -> Tensor:
    """Overlap-add of half-overlapping windows: [B, C, L, 2 hop] -> [B, C, T]."""
    first, second = windows.split(hop, dim=-1)
    return (F.pad(first, (0, 0, 0, 1)) + F.pad(second, (0, 0, 1, 0))).flatten(2)
