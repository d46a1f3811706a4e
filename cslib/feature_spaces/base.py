"""Feature spaces in which enhanced speech is compared with clean and with noisy speech, found by name in a config.

A file cslib/feature_spaces/<name>.py defines build(config: FeatureSpaceConfig) -> nn.Module: audio [B, T] in, a list of
groups of features [B, ...] out, and `groups`, how many. It may have `group_weights`, how much each of them counts, of
sum 1; else all count alike. Nothing else has to be touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cslib.checkpoints import load
from cslib.config import UserError, find

DITHER = 10 ** (-70 / 20)  # root mean square; a quiet room


@dataclass
class FeatureSpaceConfig:
    name: str = "encoder"  # encoder: our own, label-free | torchaudio: wav2vec 2.0, HuBERT, WavLM | logmel
    checkpoint: Path | None = None  # encoder: final.pt of its training; torchaudio: the bundle's weights, a local file
    bundle: str | None = None  # torchaudio: which model, as torchaudio.pipelines has it (default: WAV2VEC2_BASE)
    groups: int | None = None  # torchaudio: of layers; logmel: of resolutions (default: 4); encoders have theirs

    def __post_init__(self) -> None:
        if self.groups is not None and self.groups < 1:
            raise UserError(f"space.groups: {self.groups} will not do; give 1 or more")

    def refuse(self, *names: str) -> None:
        """Raises UserError when one of these is given, which the space has no use for."""
        for name in names:
            if getattr(self, name) is not None:
                raise UserError(f"space.{name}: the space {self.name} has no use for it; leave it out")


def describe(config: FeatureSpaceConfig) -> str:
    """What results call a space: `logmel`, `WAV2VEC2_BASE` or, of an encoder of our own, `dino resnet, 300 steps`."""
    if config.name != "encoder" or config.checkpoint is None:
        return config.bundle or ("WAV2VEC2_BASE" if config.name == "torchaudio" else config.name)
    state = load(config.checkpoint)
    names = [state.get("config", {}).get(part, {}).get("name", "") for part in ("objective", "network")]
    return f"{' '.join(filter(None, names))}, {state.get('step', 0):,} steps"


def open_feature_space(config: FeatureSpaceConfig) -> FeatureSpace:
    """Raises UserError when there is no such space, or its checkpoint is absent or of another kind."""
    return FeatureSpace(find("feature_spaces", config.name).build(config))


class FeatureSpace:
    """A network that describes audio and never changes: in eval mode, in float32, without gradients of its own.

    It is no nn.Module, so that it is part of no checkpoint, optimiser, parameter count or `train()` of the objective
    that compares with it. It follows the audio from device to device.

    A faint noise, always the same, is added to whatever is described. Most networks begin with a logarithm, and without
    it digital silence would be further from faint sounds than noise is from speech, and the gradient there without
    bound: with log-mel features up to a million times that of speech.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network, self.groups = network.float().eval().requires_grad_(False), int(network.groups)
        self.group_weights = list(getattr(network, "group_weights", [1 / self.groups] * self.groups))
        for module in network.modules():
            if isinstance(module, nn.RNNBase):
                # cuDNN refuses the gradient through a recurrence in eval mode, where only dropout would differ.
                module.dropout = 0.0
                module.train()
        self._dither = torch.zeros(0)

    def features(self, audio: Tensor) -> list[Tensor]:
        """audio [B, T] in [-1, 1], full length -> `groups` tensors [B, ...], float32; gradients reach the audio.

        The features of an item do not depend on its neighbours.
        """
        if self._dither.device != audio.device or len(self._dither) != audio.shape[1]:
            self.network.to(audio.device)
            noise = torch.randn(audio.shape[1], generator=torch.Generator().manual_seed(0))
            self._dither = (DITHER * noise).to(audio.device)
        with torch.autocast(audio.device.type, enabled=False):
            return [group.float() for group in self.network(audio.float() + self._dither)]


def distances(ours: list[Tensor], others: list[Tensor]) -> Tensor:
    """Mean absolute difference of each item in each group: G tensors [B, ...] twice -> [B, G]."""
    return torch.stack([(our - other).abs().flatten(1).mean(1) for our, other in zip(ours, others, strict=True)], 1)
