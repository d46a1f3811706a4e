"""Checkpoints: everything a training needs to continue, and the network it leaves at the end.

A continued training equals an uninterrupted one bit for bit on CPUs of the same kind, with the same number of processes
and of threads per process. On CUDA it does so only with `training.deterministic`: without it, cuDNN chooses algorithms
by speed, and cuBLAS and atomic additions may add up numbers in another order in each run.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cslib.config import UserError, find, from_dict
from cslib.files import writing
from cslib.models.base import SpeakerEncoder
from cslib.models.layers.spectra import Enhancer


def save(path: Path, state: dict[str, Any]) -> None:
    """Write the complete file or nothing. Raises UserError when the disk is full; a previous file then stays."""
    for left_over in path.parent.glob(".writing-*"):  # by a process that was killed
        left_over.unlink(missing_ok=True)
    with writing(path) as temporary:
        try:
            # Into an open file: torch writes the name of a path into the archive, and the temporary name is random.
            with open(temporary, "wb") as file:
                torch.save(state, file)
        except RuntimeError as error:  # torch reports a full disk like this
            raise OSError(str(error).partition("\n")[0]) from error


def load(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU. Raises UserError when the file is missing, damaged or of another kind.

    Nothing in the file can run code. Checksums of the whole file are verified, which torch does not do.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such checkpoint; check the path, or finish the training first")
    state = _read(path) if zipfile.is_zipfile(path) else None
    if not isinstance(state, dict):
        raise UserError(f"{path}: damaged, or not a checkpoint of this project")
    return state


def _read(path: Path) -> Any:
    """What torch.load reads, or None if it is damaged."""
    try:
        with zipfile.ZipFile(path) as parts:
            if parts.testzip() is not None:
                return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about TorchScript files, which are refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # zipfile and the unpickler raise almost anything on damaged bytes: IndexError, KeyError, ...
        return None  # without torch's message, which suggests running the code in the file


def numbered(folder: Path) -> list[Path]:
    """The files step-<n>.pt of a run, oldest first."""
    return sorted(path for path in folder.glob("step-*.pt") if re.fullmatch(r"step-\d{8}\.pt", path.name))


def numbered_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.pt"


def step_of(path: Path) -> int:
    """The step of a path that `numbered` lists."""
    return int(path.stem.removeprefix("step-"))


def kept_path(folder: Path, step: int) -> Path:
    """Where to keep the encoder as it is after a step."""
    return folder / f"encoder-{step:08d}.pt"


def kept(folder: Path) -> dict[int, Path]:
    """{step: encoder-<step>.pt} of a run, in the order of the steps."""
    names = {path: re.fullmatch(r"encoder-(\d{8})\.pt", path.name) for path in sorted(folder.glob("encoder-*.pt"))}
    return {int(name[1]): path for path, name in names.items() if name}


def encoder_state(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the network's state on the CPU, which further training does not change."""
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


def mean_state(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of each floating-point tensor over the states; of other tensors, such as counters, the last."""
    return {
        name: torch.stack([state[name] for state in states]).mean(0) if last.is_floating_point() else last
        for name, last in states[-1].items()
    }


def load_encoder(path: Path, device: torch.device | str = "cpu") -> nn.Module:
    """The trained network of a final.pt or encoder-*.pt, in eval mode. Raises UserError when the file is not one."""
    state = _final(Path(path))
    network = build_network(state["config"]["network"], str(path))
    try:
        network.load_state_dict(state["encoder"])
    except RuntimeError:
        raise UserError(f"{path}: its weights do not fit the network in its config; train again") from None
    return network.to(device).eval()


def load_speaker_encoder(path: Path, device: torch.device | str = "cpu") -> SpeakerEncoder:
    """`load_encoder` for a network that has `embed`: audio [B, T], lengths [B] -> embeddings [B, E].

    Raises UserError for other networks.
    """
    network = load_encoder(path, device)
    if not isinstance(network, SpeakerEncoder):
        raise UserError(
            f"{path}: its network, {type(network).__name__}, makes no embeddings; "
            "give the checkpoint of a speaker encoder"
        )
    return network


def load_enhancer(path: Path, device: torch.device | str = "cpu") -> Enhancer:
    """`load_encoder` for a network that has `enhance`. Raises UserError for other networks."""
    network = load_encoder(path, device)
    if not isinstance(network, Enhancer):
        raise UserError(
            f"{path}: its network, {type(network).__name__}, enhances nothing; "
            "give the checkpoint of an enhancement network"
        )
    return network


def content_digest(path: Path) -> str:
    """A SHA-256 of the network and the weights in a final.pt, and of nothing else in it, as 64 hexadecimal digits.

    The digest of another file, such as weights from elsewhere, is that of its bytes.
    """
    try:
        state = _final(Path(path))
    except UserError:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    digest = hashlib.sha256(json.dumps(state["config"]["network"], sort_keys=True).encode())
    for name, value in sorted(state["encoder"].items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()


def start_from(path: Path, network: nn.Module) -> None:
    """Copy the weights of a final.pt into `network`. Raises UserError when they are those of another network."""
    try:
        network.load_state_dict(_final(path)["encoder"])
    except RuntimeError:
        raise UserError(f"{path}: its network is not the config's; start from one of the same kind and size") from None


def _final(path: Path) -> dict[str, Any]:
    state = load(path)
    if "encoder" not in state or "config" not in state:
        raise UserError(f"{path}: not a finished training's final.pt; finish the training first")
    network = state["config"].get("network") if isinstance(state["config"], dict) else None
    if not isinstance(network, dict) or not isinstance(state["encoder"], dict):
        raise UserError(f"{path}: not a checkpoint of this project")
    return state


def build_network(section: dict[str, Any], where: str) -> nn.Module:
    """The network of a `network:` section {name, ...}, with random weights.

    Raises UserError, which names `where`, for an unknown option, and for an unknown name.
    """
    values = dict(section)
    module = find("models", values.pop("name", None))
    return module.build(from_dict(module.Config, values, where))
