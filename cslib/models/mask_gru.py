"""Enhancement by magnitude masks from a bidirectional GRU: a plain baseline network.

The input is compressed magnitudes, the output a mask from 0 to 1 for every band of every frame; phases stay noisy
(Weninger et al. 2015). 0.45 million parameters.
Shapes: B recordings, L frames, N bands.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cslib.config import require
from cslib.models.layers.spectra import Enhancer, SpectralConfig, compressed_magnitude, recur


@dataclass
class Config(SpectralConfig):
    hidden: int = 100  # GRU units per direction; with 24, training takes minutes on a CPU
    layers: int = 2  # GRU layers

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.hidden >= 1, "network.hidden", self.hidden, "at least 1")
        require(self.layers >= 1, "network.layers", self.layers, "at least 1")


def build(config: Config) -> MaskGru:
    return MaskGru(config)


class MaskGru(Enhancer):
    """Noisy audio [B, T] -> enhanced audio [B, T]; no band is amplified."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.gru = nn.GRU(config.bands, config.hidden, config.layers, batch_first=True, bidirectional=True)
        self.to_mask = nn.Linear(2 * config.hidden, config.bands)
        nn.init.ones_(self.to_mask.bias)  # training starts near the noisy speech

    def estimate(self, spectrum: Tensor, inside: Tensor | None) -> Tensor:
        values = self.to_mask(recur(self.gru, compressed_magnitude(spectrum), inside))
        return torch.sigmoid(values.float()) * spectrum
