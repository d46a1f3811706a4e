"""wav2vec 2.0, HuBERT and WavLM as torchaudio has them, with weights from a local file: nothing is ever downloaded.

Layers are taken together in groups, by their mean (Xu and colleagues' code adds three at a time, for four groups of a
base model). The base models hardly hear the level of their input; what is compared in them has to fix it elsewhere.
"""

from __future__ import annotations

import pickle
from pathlib import Path

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
        raise UserError(f"space.bundle: there is no {name!r}; there are: {', '.join(known)}")
    bundle = getattr(pipelines, name)
    if bundle.sample_rate != SAMPLE_RATE:
        raise UserError(f"space.bundle: {name} listens at {bundle.sample_rate:g} Hz; choose one for 16 kHz")
    return LayerGroups(load(bundle, name, config.checkpoint), config.groups or 4)


def load(bundle: torchaudio.pipelines.Wav2Vec2Bundle, name: str, path: Path | None) -> nn.Module:
    """The model with the weights of a file. Raises UserError when the file is absent or of another model."""
    if path is None or not Path(path).is_file():
        raise UserError(
            f"space.checkpoint: {path or 'none given'}, and nothing is downloaded; give the file of the "
            f"weights of {name}, or use the space encoder"
        )
    place = {"model_dir": str(Path(path).parent), "file_name": Path(path).name, "weights_only": True}
    try:
        return bundle.get_model(dl_kwargs=place)
    except (RuntimeError, EOFError, TypeError, KeyError, AttributeError, pickle.UnpicklingError):
        raise UserError(f"{path}: damaged, or not the weights of {name}; copy them again") from None


class LayerGroups(nn.Module):
    """audio [B, T] -> groups of consecutive transformer layers, their mean: `groups` x [B, frames, width].

    A group takes equally many layers, apart from one more in the last ones. Frames are 20 ms apart.
    """

    def __init__(self, model: nn.Module, groups: int) -> None:
        super().__init__()
        # The models that want normalised audio come in a wrapper that normalises a batch as a whole: the features of
        # an item would depend on its neighbours. Each item is normalised by itself here, and the wrapper left out.
        self.normalised = getattr(model, "normalize_waveform", False)
        self.model, self.groups = getattr(model, "model", model), groups
        layers = len(self.model.encoder.transformer.layers)
        if layers < groups:
            raise UserError(f"space.groups: {groups} groups of {layers} layers; give {layers} or fewer")
        # Each group counts twice as much as the one before it, as in the image regulariser that ours descends from.
        self.group_weights = [2**group / (2**groups - 1) for group in range(groups)]
        self.bounds = [group * layers // groups for group in range(groups + 1)]

    def forward(self, audio: Tensor) -> list[Tensor]:
        if self.normalised:
            audio = F.layer_norm(audio, audio.shape[-1:])
        layers, _ = self.model.extract_features(audio)
        return [
            torch.stack(layers[first:end]).mean(0) for first, end in zip(self.bounds, self.bounds[1:], strict=False)
        ]
