"""Magnitude-mask enhancement with a bidirectional GRU: the plain baseline that a plug-in has to help as well.

Compressed magnitudes in, a mask between 0 and 1 for every band of every frame out; phases stay noisy (as the mask
networks of Weninger et al. 2015 have it). 0.45 million parameters.
Shapes: B recordings, L frames, N bands.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cslib.config import UserError
from cslib.models.layers.spectra import Enhancer, SpectralConfig, compressed_magnitude, recur


@dataclass
class Config(SpectralConfig):
    hidden: int = 100  # GRU units per direction; 24 trains on a CPU in minutes
    layers: int = 2  # of the GRU

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden < 1 or self.layers < 1:
            raise UserError(
                f"network.hidden {self.hidden} and network.layers {self.layers} are 1 or more; change the config"
            )


def build(config: Config) -> MaskGru:
    return MaskGru(config)


class MaskGru(Enhancer):
    """Noisy audio [B, T] -> enhanced audio [B, T]; no band ever gets louder."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.gru = nn.GRU(config.bands, config.hidden, config.layers, batch_first=True, bidirectional=True)
        self.to_mask = nn.Linear(2 * config.hidden, config.bands)
        nn.init.ones_(self.to_mask.bias)  # learning starts near the noisy speech

    def estimate(self, spectrum: Tensor, inside: Tensor | None) -> Tensor:
        values = self.to_mask(recur(self.gru, compressed_magnitude(spectrum), inside))
        return torch.sigmoid(values.float()) * spectrum
