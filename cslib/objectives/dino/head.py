"""The projection head of DINO and its prototypes (Caron et al. 2021, appendix C)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Head(nn.Module):
    """Embeddings [..., E] -> points [..., D]: unit vectors in float32, to be compared with K prototypes of length 1.

    Three linear layers with GELU between them.

    size        E
    hidden      width of the two hidden layers
    bottleneck  D
    prototypes  K
    batch_norm  whether batch normalisation follows each hidden layer
    """

    def __init__(self, size: int, hidden: int, bottleneck: int, prototypes: int, batch_norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (size, hidden):
            layers.append(nn.Linear(inputs, hidden))
            if batch_norm:
                layers.append(nn.BatchNorm1d(hidden))
            layers.append(nn.GELU())
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, bottleneck))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        # Weight normalisation with a fixed magnitude of 1: only the directions count.
        self.directions = nn.Linear(bottleneck, prototypes, bias=False).weight

    def forward(self, embeddings: Tensor) -> Tensor:
        points = self.layers(embeddings.flatten(0, -2)).unflatten(0, embeddings.shape[:-1])
        return F.normalize(points.float(), dim=-1)

    def prototypes(self, frozen: bool = False) -> Tensor:
        """float32 [K, D], of length 1; without gradient when frozen."""
        return F.normalize(self.directions.detach() if frozen else self.directions, dim=-1)
