"""Plots of spectrograms: one recording as output by several systems, one above the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from cslib.data.manifests import SAMPLE_RATE
from cslib.files import writing
from cslib.models.layers.spectra import analyse

WINDOW, HOP = 512, 128  # samples
RANGE = 70.0  # dB below the maximum of the first spectrogram


def plot_spectrograms(signals: dict[str, np.ndarray], path: Path | str, title: str = "") -> None:
    """Write a PNG with one spectrogram per signal [T], in the given order, all on the colour scale of the first."""
    levels = {name: _level(samples) for name, samples in signals.items()}
    loudest = max(float(next(iter(levels.values())).max()), -200.0)
    figure = Figure(figsize=(9, 2.1 * len(levels)), layout="constrained")
    rows = figure.subplots(len(levels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, level) in zip(rows, levels.items(), strict=True):
        seconds = len(signals[name]) / SAMPLE_RATE
        image = axes.imshow(
            level.T,
            origin="lower",
            aspect="auto",
            extent=(0, seconds, 0, SAMPLE_RATE / 2000),
            vmin=loudest - RANGE,
            vmax=loudest,
            cmap="magma",
        )
        axes.set_ylabel(f"{name}\nkHz")
    rows[-1].set_xlabel("s")
    figure.colorbar(image, ax=list(rows), label="dB")
    figure.suptitle(title)
    with writing(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _level(samples: np.ndarray) -> np.ndarray:
    """Samples [T] -> level in dB [frames, bands]."""
    spectrum = analyse(torch.from_numpy(samples.astype(np.float32)), WINDOW, HOP)
    return 20 * np.log10(spectrum.abs().numpy() + 1e-6)
