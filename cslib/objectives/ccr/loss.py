"""Reconstruction loss of enhancement: distance of compressed spectra, and SI-SNR.

The hybrid loss of GTCRN (Rong et al. 2024): mean squared errors of the complex spectrum and of the magnitude, both
power-compressed by 0.3, and SI-SNR in units of 10 dB, weighted 30, 70 and 1. The spectra contain the level, to which
SI-SNR is invariant. The weights are chosen for audio near -25 dBFS. Everything is in float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cslib.models.layers.spectra import analyse, compressed, compressed_magnitude

WINDOW, HOP = 512, 128  # samples; the network may use others
COMPLEX_WEIGHT, MAGNITUDE_WEIGHT = 30.0, 70.0
BEST = 1e-3  # noise-to-signal ratio, -30 dB: the loss does not fall further below it
SLACK = 1e-6  # share of the clean energy; makes the loss of a silent estimate finite
FAINT = 10**-5.5  # mean square, -55 dBFS: the SI-SNR of fainter speech weighs less


def reconstruction_loss(enhanced: Tensor, clean: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Enhanced [B, T], clean [B, T] in [-1, 1] -> the loss, and its weighted parts, detached, to log.

    Zero where both are equal (up to 1e-3 of rounding and slack), positive elsewhere.
    """
    complex_error, magnitude_error = spectral_errors(enhanced, clean)
    parts = {
        "complex": COMPLEX_WEIGHT * complex_error,
        "magnitude": MAGNITUDE_WEIGHT * magnitude_error,
        "si_snr": si_snr_loss(enhanced, clean),
    }
    total = parts["complex"] + parts["magnitude"] + parts["si_snr"]
    return total, {name: value.detach() for name, value in parts.items()}


def spectral_errors(enhanced: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared errors of compressed spectra: of real plus imaginary parts, and of magnitudes; scalars."""
    estimate, target = analyse(enhanced, WINDOW, HOP), analyse(clean, WINDOW, HOP)
    difference = torch.view_as_real(compressed(estimate) - compressed(target))
    magnitudes = compressed_magnitude(estimate) - compressed_magnitude(target)
    return difference.square().sum(-1).mean(), magnitudes.square().mean()


def si_snr_loss(enhanced: Tensor, clean: Tensor) -> Tensor:
    """Shortfall of the scale-invariant SNR below 30 dB, in units of 10 dB: mean over the items of [B, T].

    Bounded on both sides (as in Wisdom et al. 2020, arXiv 2006.12701): below, so that items that are good already leave
    the gradient to others, and above by the slack. Speech fainter than -55 dBFS weighs less, because the gradient of
    its SI-SNR grows with one over its amplitude; silence has weight 0.
    """
    enhanced, clean = enhanced.float(), clean.float()
    enhanced, clean = (audio - audio.mean(-1, keepdim=True) for audio in (enhanced, clean))
    energy = clean.square().sum(-1)
    scale = (enhanced * clean).sum(-1) / energy.clamp(min=1e-12)
    scaled = scale[:, None] * clean
    noise, signal = (enhanced - scaled).square().sum(-1), scaled.square().sum(-1)
    slack = SLACK * energy + 1e-12
    missing = torch.log10((noise + BEST * signal + slack) / (signal + slack)) - math.log10(BEST)
    return (missing * energy / (energy + FAINT * clean.shape[-1])).mean()
