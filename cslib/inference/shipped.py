"""The network that comes with the project, and copies of networks outside their runs.

models/speaker.pt in the project's folder is used where no checkpoint is named. Its calibration lies beside it.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cslib import checkpoints
from cslib.config import UserError
from cslib.evaluation.calibration import copy_calibration
from cslib.models.base import SpeakerEncoder

FOLDER = Path(__file__).resolve().parents[2] / "models"
NAME = "speaker.pt"
FEW = 4096  # numbers; smaller tensors always stay in single precision
KEPT = ("config", "commit", "step", "run", "system")  # of a checkpoint, so that `info` can describe the copy


def network_or_shipped(checkpoint: Path | None) -> Path:
    """The checkpoint or, without one, the network that comes with the project.

    Raises UserError when that is missing.
    """
    if checkpoint is not None:
        return checkpoint
    path = FOLDER / NAME
    if not path.is_file():
        raise UserError(f"{path}: the network that comes with the project is missing; restore it or give --checkpoint")
    return path


def named(checkpoint: Path | None) -> str:
    """A line for people that says which network is used."""
    path = network_or_shipped(checkpoint)
    if checkpoint is not None:
        return str(path)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"{shown}, which comes with the project; --checkpoint selects another"


def copy_network(checkpoint: Path, out: Path, halved: bool = False, **origin: str) -> Path | None:
    """Write a network without the rest of its run, and its calibration beside it; return the calibration's path.

    halved  store weights in half precision; they are computed with in single precision
    origin  what the copy says of itself besides, such as its run and its system
    Returns None when there is no calibration. Equal inputs give equal files.
    Raises UserError when the file is no finished network or its calibration is of another one.
    """
    checkpoints.load_speaker_encoder(checkpoint)
    state = checkpoints.load(checkpoint)
    identity = state.get("identity", {})
    kept: dict[str, Any] = {name: state[name] for name in KEPT if name in state}
    if "inputs" in identity:
        kept["identity"] = {"inputs": identity["inputs"]}
    encoder = {name: _half(value) if halved else value for name, value in state["encoder"].items()}
    checkpoints.save(out, {**kept, **origin, "encoder": encoder})
    return copy_calibration(checkpoint, out)


def _half(weights: Tensor) -> Tensor:
    """In half precision, unless the weights are few or out of its range.

    Few weights take little room, and first layers and batch norms are the most sensitive: without them, half precision
    changed cosines by 0.0002 instead of 0.0016 (a ResNet of 127,000 weights on speech).
    """
    if weights.numel() < FEW or weights.dtype != torch.float32:
        return weights
    half = weights.half()
    return half if half.isfinite().all() else weights


@torch.inference_mode()
def largest_change(one: SpeakerEncoder, other: SpeakerEncoder, recordings: list[Tensor]) -> float:
    """The largest difference between the cosines of two networks, over all pairs of recordings, each [1, T]."""
    cosines = []
    for network in (one, other):
        vectors = torch.cat([F.normalize(network.embed(audio).float(), dim=1) for audio in recordings])
        cosines.append(vectors @ vectors.T)
    pairs = torch.tensor(list(combinations(range(len(recordings)), 2)))
    return float((cosines[0] - cosines[1]).abs()[pairs[:, 0], pairs[:, 1]].max())
