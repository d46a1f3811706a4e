"""Feature spaces in which enhanced speech is compared with clean and with noisy speech, found by name in a config.

A file cslib/feature_spaces/<name>.py defines

    build(config: FeatureSpaceConfig) -> nn.Module

and nothing else has to change. The module maps audio [B, T] to a list of G groups of features, [B, ...] each. Its
attribute `groups` is G; `group_weights`, G numbers of sum 1, is optional (default: equal weights).

Shapes: B recordings, T samples at 16 kHz in [-1, 1], G groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cslib.checkpoints import load
from cslib.config import UserError, find, require

DITHER = 10 ** (-70 / 20)  # root mean square, -70 dBFS: a quiet room


@dataclass
class FeatureSpaceConfig:
    name: str = "encoder"  # encoder: our own, label-free | torchaudio: wav2vec 2.0, HuBERT, WavLM | logmel
    checkpoint: Path | None = None  # encoder: final.pt of its training; torchaudio: local file of the bundle's weights
    bundle: str | None = None  # torchaudio: name of the model in torchaudio.pipelines (default: WAV2VEC2_BASE)
    groups: int | None = None  # torchaudio: groups of layers; logmel: resolutions (default: 4); fixed for encoder

    def __post_init__(self) -> None:
        require(self.groups is None or self.groups >= 1, "groups of the feature space", self.groups, "at least 1")

    def refuse(self, *names: str) -> None:
        """Raises UserError when one of these options is given: the feature space does not use them."""
        for name in names:
            if getattr(self, name) is not None:
                raise UserError(f"{name} of the feature space: {self.name} does not use it; leave it out")


def describe(config: FeatureSpaceConfig) -> str:
    """Name of a feature space in results: `logmel`, `WAV2VEC2_BASE` or, for an encoder, `dino resnet, 300 steps`."""
    if config.name != "encoder" or config.checkpoint is None:
        return config.bundle or ("WAV2VEC2_BASE" if config.name == "torchaudio" else config.name)
    state = load(config.checkpoint)
    names = [state.get("config", {}).get(part, {}).get("name", "") for part in ("objective", "network")]
    return f"{' '.join(filter(None, names))}, {state.get('step', 0):,} steps"


def open_feature_space(config: FeatureSpaceConfig) -> FeatureSpace:
    """Build a feature space. Raises UserError for an unknown name, and for a missing or unsuitable checkpoint."""
    return FeatureSpace(find("feature_spaces", config.name).build(config))


class FeatureSpace:
    """A frozen network that maps audio to features: in eval mode, in float32, without gradients of its own.

    It is not an nn.Module, so it is part of no checkpoint, optimiser, parameter count or `train()` of the objective
    that uses it. It moves to the device of the audio.

    A faint noise, always the same, is added to all audio. Most networks begin with a logarithm; without the noise,
    digital silence would be further from faint sounds than noise is from speech, and the gradient there unbounded: with
    log-mel features up to a million times that of speech.

    groups         G
    group_weights  G weights of sum 1
    """

    groups: int
    group_weights: list[float]

    def __init__(self, network: Any) -> None:
        self.network, self.groups = network.float().eval().requires_grad_(False), int(network.groups)
        self.group_weights = list(getattr(network, "group_weights", [1 / self.groups] * self.groups))
        for module in network.modules():
            if isinstance(module, nn.RNNBase):
                # cuDNN computes no gradient through a recurrence in eval mode; only dropout would differ.
                module.dropout = 0.0
                module.train()
        self._dither = torch.zeros(0)

    def features(self, audio: Tensor) -> list[Tensor]:
        """audio [B, T], all full -> G tensors [B, ...], float32; gradients reach the audio.

        The features of an item do not depend on the other items.
        """
        if self._dither.device != audio.device or len(self._dither) != audio.shape[1]:
            self.network.to(audio.device)
            noise = torch.randn(audio.shape[1], generator=torch.Generator().manual_seed(0))
            self._dither = (DITHER * noise).to(audio.device)
        with torch.autocast(audio.device.type, enabled=False):
            return [group.float() for group in self.network(audio.float() + self._dither)]


def distances(ours: list[Tensor], others: list[Tensor]) -> Tensor:
    """Mean absolute difference per item and group: G tensors [B, ...] twice -> [B, G]."""
    return torch.stack([(our - other).abs().flatten(1).mean(1) for our, other in zip(ours, others, strict=True)], 1)
