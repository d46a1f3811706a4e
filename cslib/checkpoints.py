"""Checkpoints: everything needed to go on bit for bit, and the encoder that is left at the end."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cslib import config as configuration
from cslib.config import UserError
from cslib.files import writing
from cslib.models.base import SpeakerEncoder
from cslib.models.layers.spectra import Enhancer


def save(path: Path, state: dict[str, Any]) -> None:
    """Write the whole file or nothing; raises UserError when the disk is full, the last good one survives."""
    for left_over in path.parent.glob(".writing-*"):  # of a process that was killed while it wrote
        left_over.unlink(missing_ok=True)
    with writing(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # how torch reports a full disk
            raise OSError(str(error).partition("\n")[0]) from error


def load(path: Path) -> dict[str, Any]:
    """Raises UserError when the file is absent, damaged or something else."""
    if not path.exists():
        raise UserError(f"{path}: there is no such checkpoint; check the path, or train first (stage 3)")
    try:
        # Only tensors and plain containers are in it, so nothing in a file from elsewhere can run code.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript, which is refused below
            state = torch.load(path, map_location="cpu", weights_only=True) if zipfile.is_zipfile(path) else None
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
        state = None  # torch's own message advises to run the code in the file
    if not isinstance(state, dict):
        raise UserError(f"{path}: damaged, or not a checkpoint of this project")
    return state


def numbered(folder: Path) -> list[Path]:
    """step-<n>.pt of a run, oldest first."""
    return sorted(path for path in folder.glob("step-*.pt") if re.fullmatch(r"step-\d{8}\.pt", path.name))


def numbered_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.pt"


def step_of(path: Path) -> int:
    """Of a path of `numbered`."""
    return int(path.stem.removeprefix("step-"))


def kept_path(folder: Path, step: int) -> Path:
    """The encoder alone as it was after a step, kept for good."""
    return folder / f"encoder-{step:08d}.pt"


def kept(folder: Path) -> dict[int, Path]:
    """{step: encoder-<step>.pt} of a run, in the order of the steps."""
    names = {path: re.fullmatch(r"encoder-(\d{8})\.pt", path.name) for path in sorted(folder.glob("encoder-*.pt"))}
    return {int(name[1]): path for path, name in names.items() if name}


def encoder_state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


def mean_state(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of the weights; what is not a floating-point number comes from the last."""
    return {
        name: torch.stack([state[name] for state in states]).mean(0) if last.is_floating_point() else last
        for name, last in states[-1].items()
    }


def load_encoder(path: Path, device: torch.device | str = "cpu") -> nn.Module:
    """The trained embedding network of a final.pt or encoder-*.pt, in eval mode: `embed(audio [B, T], lengths [B])`.

    Raises UserError when the file is not one.
    """
    state = _final(Path(path))
    network = build_network(state["config"]["network"], str(path))
    network.load_state_dict(state["encoder"])
    return network.to(device).eval()


def load_speaker_encoder(path: Path, device: torch.device | str = "cpu") -> nn.Module:
    """The same; raises UserError for a network that makes no embeddings."""
    network = load_encoder(path, device)
    if not isinstance(network, SpeakerEncoder):
        raise UserError(
            f"{path}: its network, {type(network).__name__}, makes no embeddings; give a checkpoint of egs/voxceleb"
        )
    return network


def load_enhancer(path: Path, device: torch.device | str = "cpu") -> Enhancer:
    """The network of a final.pt, in eval mode. Raises UserError when that is no network for enhancement."""
    network = load_encoder(path, device)
    if not isinstance(network, Enhancer):
        raise UserError(
            f"{path}: its network, {type(network).__name__}, enhances nothing; give a checkpoint of egs/voicebank"
        )
    return network


def start_from(path: Path, network: nn.Module) -> None:
    """Give `network` the weights of a final.pt. Raises UserError when that is of another network."""
    try:
        network.load_state_dict(_final(path)["encoder"])
    except RuntimeError:
        raise UserError(f"{path}: its network is not the config's; start from one of the same kind and size") from None


def _final(path: Path) -> dict[str, Any]:
    state = load(path)
    if "encoder" not in state or "config" not in state:
        raise UserError(f"{path}: not a finished training's final.pt; let the training finish")
    return state


def build_network(section: dict[str, Any], where: str) -> nn.Module:
    """The `network:` section {name, ...} of a training config -> the network."""
    values = dict(section)
    module = configuration.find("models", values.pop("name"))
    return module.build(configuration.from_dict(module.Config, values, where))
