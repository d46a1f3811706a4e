"""What a checkpoint is: how it was trained and on what, its network, and whether `verify` has a threshold for it.

    python -m cslib info exp/mini_csc/checkpoints/final.pt

Of the config, only what differs from the defaults is shown; all of it is in config.yaml of the run. Digests tell
whether two trainings had the same data, not where it lies.
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
    checkpoint: Path = positional()  # final.pt, encoder-*.pt or step-*.pt of a run


def main(options: Options) -> None:
    state = load(options.checkpoint)
    identity = state.get("identity", {})
    config = state.get("config") or identity.get("config")
    if not isinstance(config, dict) or "network" not in config:
        raise UserError(f"{options.checkpoint}: not a checkpoint of this project")
    network = build_network(config["network"], str(options.checkpoint))
    lines = {
        "kind": kind(network, "encoder" in state),
        "network": network_line(network, config["network"]),
        "method": section_line("objectives", config.get("objective")),
        "training": training_line(config, state.get("step")),
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
    return what if finished else f"{what}; an unfinished training, which only local/train.py can go on with"


def network_line(network: nn.Module, section: dict[str, Any]) -> str:
    parameters = sum(p.numel() for p in network.parameters())
    return f"{section_line('models', section)}; {parameters:,} parameters"


def section_line(package: str, section: dict[str, Any] | None) -> str:
    """The name in a section of the config, and its values that are not the defaults."""
    if not section:
        return "not known"
    values = {name: value for name, value in section.items() if name != "name"}
    changed = differing(values, find(package, section["name"]).Config())
    return section["name"] + (f" with {changed}" if changed else "")


def training_line(config: dict[str, Any], step: int | None) -> str:
    training = config.get("training", {})
    values = {name: value for name, value in training.items() if name not in ("steps", "batch_size")}
    return (
        ", ".join(
            filter(
                None,
                [
                    f"step {step:,} of {training['steps']:,}" if step is not None and "steps" in training else "",
                    f"batches of {training['batch_size']}" if "batch_size" in training else "",
                    differing(values, TrainingConfig()),
                    f"seed {config['seed']}" if "seed" in config else "",
                ],
            )
        )
        or "not known"
    )


def differing(values: dict[str, Any], default: Any, prefix: str = "") -> str:
    """Those of a section's values that the dataclass `default` has otherwise: `blocks [1, 1], views.global_crops 2`."""
    known, told = to_dict(default), []
    for name, value in values.items():
        if is_dataclass(getattr(default, name, None)) and isinstance(value, dict):
            told.append(differing(value, getattr(default, name), f"{prefix}{name}."))
        elif value != known.get(name) or name == "mode":  # which says what the others mean
            told.append(f"{prefix}{name} {value}")
    return ", ".join(filter(None, told))


def data_line(inputs: dict[str, Any]) -> str:
    """What a training read, by content."""
    if not inputs:
        return "not known"
    told = [f"{inputs['count']:,} recordings"] if "count" in inputs else []
    for name, value in inputs.items():
        if isinstance(value, dict):
            told.append(f"{name}: {', '.join(value) or 'none'}")
        elif isinstance(value, str):
            told.append(f"{name} of digest {value[:12]}")
    return "; ".join(told)


def calibration_line(checkpoint: Path) -> str:
    path = calibration_path(checkpoint)
    if not path.exists():
        return "none; local/calibrate.py makes one for `verify`"
    try:
        found = read_calibration(path, digest(checkpoint))
    except UserError as problem:
        return f"none; {problem}"
    return (
        f"{found.threshold:.2f}; {found.threshold_at_1_percent:.2f} is reached by {100 * FALSE_ALARMS:.0f} % of "
        f"the pairs across clusters; from {found.recordings:,} recordings in {found.clusters:,} clusters"
    )
