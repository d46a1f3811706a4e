"""wav2vec 2.0, HuBERT and WavLM of torchaudio, with weights from a local file: nothing is downloaded.

A group is the mean of consecutive layers (the code of Xu et al. sums three at a time, for four groups of a base model).
The base models are almost invariant to the level of their input, so the level has to be learnt from another loss.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

from cslib.config import UserError
from cslib.data.manifests import SAMPLE_RATE
from cslib.feature_spaces.base import FeatureSpaceConfig


def build(config: FeatureSpaceConfig) -> LayerGroups:
    pipelines, name = torchaudio.pipelines, config.bundle or "WAV2VEC2_BASE"
    known = [each for each in pipelines.__all__ if isinstance(getattr(pipelines, each), pipelines.Wav2Vec2Bundle)]
    if name not in known:
        raise UserError(f"bundle of the feature space: {name!r} is none of torchaudio's: {', '.join(known)}")
    bundle = getattr(pipelines, name)
    if bundle.sample_rate != SAMPLE_RATE:
        raise UserError(f"bundle of the feature space: {name} is for {bundle.sample_rate:g} Hz; give one for 16000 Hz")
    return LayerGroups(load(bundle, name, config.checkpoint), config.groups or 4)


def load(bundle: torchaudio.pipelines.Wav2Vec2Bundle, name: str, path: Path | None) -> nn.Module:
    """The model with the weights of a file. Raises UserError when the file is missing or of another model."""
    if path is None or not Path(path).is_file():
        raise UserError(
            f"checkpoint of the feature space: {path or 'none given'}: not found, and nothing is downloaded; give "
            f"the file with the weights of {name}, or use encoder"
        )
    place = {"model_dir": str(Path(path).parent), "file_name": Path(path).name, "weights_only": True}
    try:
        return bundle.get_model(dl_kwargs=place)
    except (RuntimeError, EOFError, TypeError, KeyError, AttributeError, pickle.UnpicklingError):
        raise UserError(f"{path}: damaged, or not the weights of {name}; copy them again") from None


class LayerGroups(nn.Module):
    """audio [B, T] -> G tensors [B, frames, width], means of consecutive transformer layers.

    Groups have equally many layers, the last ones one more where needed. Frames are 20 ms apart.
    Raises UserError for more groups than layers.
    """

    def __init__(self, model: Any, groups: int) -> None:
        super().__init__()
        # Models for normalised audio come in a wrapper that normalises a batch as a whole, which makes the features of
        # an item depend on the others. Here each item is normalised by itself, without the wrapper.
        self.normalised = bool(getattr(model, "normalize_waveform", False))
        self.model: Any = getattr(model, "model", model)
        self.groups = groups
        layers = len(self.model.encoder.transformer.layers)
        if layers < groups:
            raise UserError(f"groups of the feature space: {groups} groups of {layers} layers; give {layers} or fewer")
        # Each group weighs twice as much as the one before it, in the manner of AECR-Net.
        self.group_weights = [2**group / (2**groups - 1) for group in range(groups)]
        self.bounds = [group * layers // groups for group in range(groups + 1)]

    def forward(self, audio: Tensor) -> list[Tensor]:
        if self.normalised:
            audio = F.layer_norm(audio, audio.shape[-1:])
        layers, _ = self.model.extract_features(audio)
        return [
            torch.stack(layers[first:end]).mean(0) for first, end in zip(self.bounds, self.bounds[1:], strict=False)
        ]
