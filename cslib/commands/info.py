"""Describe a checkpoint: its network, how and on what it was trained, and its threshold for `verify`.

    python -m cslib info models/speaker.pt

Only options that differ from their defaults are shown; config.yaml of the run has all of them. Equal digests mean
equal data, wherever it is stored.
"""

from __future__ import annotations

from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cslib.checkpoints import build_network, load
from cslib.config import UserError, find, positional, to_dict
from cslib.datasets.augmentation import AugmentConfig
from cslib.evaluation.calibration import FALSE_ALARMS, calibration_path, read_calibration
from cslib.files import digest
from cslib.models.layers.spectra import Enhancer
from cslib.training.config import TrainingConfig


@dataclass
class Options:
    checkpoint: Path = positional()  # models/speaker.pt; best.pt, final.pt, encoder-*.pt or step-*.pt of a run


def main(options: Options) -> None:
    state = load(options.checkpoint)
    identity = state.get("identity", {})
    config = state.get("config") or identity.get("config")
    if not isinstance(config, dict) or not isinstance(config.get("network"), dict):
        raise UserError(f"{options.checkpoint}: not a checkpoint of this project")
    network = build_network(config["network"], str(options.checkpoint))
    lines = {
        **({"system": f"{state['system']} of run {state['run']}"} if {"system", "run"} <= set(state) else {}),
        "kind": kind(network, "encoder" in state),
        "network": network_line(network, config["network"]),
        "method": section_line("objectives", config.get("objective")),
        "training": training_line(config, state.get("step")),
        "code": f"git commit {state['commit']}" if "commit" in state else "not known",
        "augment": differing(config.get("augment", {}), AugmentConfig()) or "defaults",
        "data": data_line(identity.get("inputs", {})),
        "file": f"{options.checkpoint.stat().st_size / 1e6:.1f} MB, digest {digest(options.checkpoint)}",
    }
    if not isinstance(network, Enhancer):
        lines["threshold"] = calibration_line(options.checkpoint)
    print(options.checkpoint)
    for name, text in lines.items():
        print(f"  {name:<10} {text}")


def kind(network: nn.Module, finished: bool) -> str:
    what = (
        "enhancement network: noisy speech to clean speech"
        if isinstance(network, Enhancer)
        else f"speaker encoder: speech to a vector of {network.embedding_size} numbers"
    )
    return what if finished else f"{what}; of a training that is not finished, only to be continued"


def network_line(network: nn.Module, section: dict[str, Any]) -> str:
    parameters = sum(p.numel() for p in network.parameters())
    return f"{section_line('models', section)}; {parameters:,} parameters"


def section_line(package: str, section: dict[str, Any] | None) -> str:
    """The name in a section of the config, and its options that differ from their defaults."""
    if not section:
        return "not known"
    values = {name: value for name, value in section.items() if name != "name"}
    changed = differing(values, find(package, section["name"]).Config())
    return section["name"] + (f" with {changed}" if changed else "")


def training_line(config: dict[str, Any], step: int | None) -> str:
    """Progress, batch size, the other options that differ from their defaults, and the seed."""
    training = config.get("training", {})
    others = {name: value for name, value in training.items() if name not in ("steps", "batch_size")}
    parts = [
        f"step {step:,} of {training['steps']:,}" if step is not None and "steps" in training else "",
        f"batches of {training['batch_size']}" if "batch_size" in training else "",
        differing(others, TrainingConfig()),
        f"seed {config['seed']}" if "seed" in config else "",
    ]
    return ", ".join(filter(None, parts)) or "not known"


def differing(values: dict[str, Any], default: Any, prefix: str = "") -> str:
    """The values of a section that differ from the dataclass `default`: `blocks [1, 1], views.global_crops 2`."""
    known, found = to_dict(default), []
    for name, value in values.items():
        if is_dataclass(getattr(default, name, None)) and isinstance(value, dict):
            found.append(differing(value, getattr(default, name), f"{prefix}{name}."))
        elif value != known.get(name) or name == "mode":  # always shown, because other options depend on it
            found.append(f"{prefix}{name} {value}")
    return ", ".join(filter(None, found))


def data_line(inputs: dict[str, Any]) -> str:
    """The inputs of a training, by content."""
    if not inputs:
        return "not known"
    parts = [f"{inputs['count']:,} recordings"] if "count" in inputs else []
    for name, value in inputs.items():
        if isinstance(value, dict):
            parts.append(f"{name}: {', '.join(value) or 'none'}")
        elif isinstance(value, str):
            parts.append(f"{name} of digest {value[:12]}")
    return "; ".join(parts)


def calibration_line(checkpoint: Path) -> str:
    path = calibration_path(checkpoint)
    if not path.exists():
        return "none; local/calibrate.py estimates one for `verify`"
    try:
        found = read_calibration(path, digest(checkpoint))
    except UserError as problem:
        return f"none; {problem}"
    strict = (
        f"{100 * FALSE_ALARMS:.0f} % of the pairs from different clusters score at least "
        f"{found.threshold_at_1_percent:.2f}; "
    )
    return (
        f"{found.threshold:.2f}; {strict if found.has_strict else ''}from {found.recordings:,} recordings in "
        f"{found.clusters:,} clusters"
    )
