"""Networks of a few weights as checkpoints, and recordings of noise, for the tests of the commands."""

from importlib import import_module
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import nn

from cslib import checkpoints
from cslib.config import parse

RATE = 16000
NETWORKS = {
    "resnet": {"num_mels": 24, "channels": [4, 6], "blocks": [1, 1], "stem_stride": 2, "embedding_size": 8},
    "ecapa": {
        "num_mels": 24,
        "channels": 16,
        "scale": 4,
        "squeeze": 4,
        "aggregation": 24,
        "attention": 4,
        "embedding_size": 8,
    },
    "res2net": {
        "num_mels": 24,
        "channels": [8, 8],
        "blocks": [1, 1],
        "base_width": 16,
        "scale": 4,
        "embedding_size": 8,
    },
    "galr": {
        "window": 400,
        "filters": 16,
        "features": 8,
        "hidden": 8,
        "segment": 8,
        "heads": 2,
        "low_dim": 4,
        "shared_blocks": 1,
        "speech_blocks": 1,
        "speaker_blocks": 1,
        "embedding_size": 8,
    },
    "mask_gru": {"hidden": 4, "layers": 1, "window_seconds": 0.5},
}
# A separating network as the mini corpus has it.
MASKED = {
    **NETWORKS["galr"],
    "filterbank": "fourier",
    "mask": "sigmoid",
    "compression": "log",
    "segment": 16,
    "speaker_blocks": 0,
    "speaker_streams": "masked",
    "pooling": "statistics",
    "embedding_norm": "batch",
}


def build(name: str, section: dict | None = None, seed: int = 0) -> nn.Module:
    """A network of random weights whose batch norms have seen something, in eval mode."""
    section = section or NETWORKS[name]
    module = import_module(f"cslib.models.{name}")
    torch.manual_seed(seed)
    network = module.build(module.Config(**section))
    for layer in network.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return network.eval()


def save(path: Path, name: str, section: dict | None = None, seed: int = 0, **more) -> nn.Module:
    """Write what a training leaves, and return the network."""
    network = build(name, section, seed)
    config = {"network": {"name": name, **(section or NETWORKS[name])}, **more.pop("config", {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.save(path, {"config": config, "encoder": checkpoints.encoder_state(network), **more})
    return network


def noise(seconds: float, seed: int = 0, level: float = 2000, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """int16 [n, channels], coloured by the seed."""
    rng = np.random.default_rng(seed)
    samples = rng.normal(0, level, (round(seconds * rate), channels))
    colour = rng.random(8) / 2
    return (
        np.stack([np.convolve(side, colour, "same") for side in samples.T], axis=1).clip(-32768, 32767).astype(np.int16)
    )


def record(path: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate)
    return path


def call(command, *words) -> None:
    command.main(parse(command.Options, [str(word) for word in words]))
