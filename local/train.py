"""Train any objective on any data folder.

    python local/train.py --config egs/voxceleb/conf/mini/csc.yaml --data data/mini/train \\
        --noise data/mini/noise --exp exp/mini_csc
    torchrun --nproc-per-node 4 local/train.py ...        # the same on four GPUs

The same command continues an interrupted run. Any value of the config can be set on the command line too:
--training.steps 100 --objective.alpha 5. With --config, --help lists them all.
"""

import hashlib
import sys
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
import yaml

from cslib import checkpoints
from cslib.config import UserError, find, load_yaml, run, to_dict, values_of, with_bases
from cslib.data.banks import Banks, open_banks
from cslib.data.labels import read_labels
from cslib.data.utterances import Utterances
from cslib.datasets.augmentation import AugmentConfig
from cslib.files import write_lines
from cslib.objectives.base import Objective, Task, objective_named
from cslib.training import distributed
from cslib.training.loop import Trainer, TrainingConfig


@dataclass
class Common:
    """The options that do not depend on the objective and the network."""

    data: Path  # data/<set> to train on
    exp: Path  # run folder: checkpoints/, log.jsonl, tensorboard/
    noise: Path | None = None  # data/<corpus>/noise; none: neither noise nor RIRs
    labels: Path | None = None  # table of pseudo-labels; only for objectives that need them
    start_from: Path | None = None  # a final.pt whose encoder is the starting point
    seed: int = 0  # of weights, crops and noise
    device: str = "auto"  # auto | cpu | cuda
    augment: AugmentConfig = field(default_factory=AugmentConfig)  # RIRs and noise
    training: TrainingConfig = field(default_factory=TrainingConfig)  # the loop


def options_of_command(argv: list[str] | None = None) -> type:
    """The options of this script, with the sections of the objective and the network that are asked for."""
    argv = with_bases(sys.argv[1:] if argv is None else argv)
    objective, network = _name_of("objective", argv), _name_of("network", argv)
    if not (objective and network) and {"-h", "--help"} & set(argv):
        return Common
    if not (objective and network):
        raise UserError("--config: it needs `objective: {name: ...}` and `network: {name: ...}`; see egs/voxceleb/conf")
    chosen_objective, chosen_network = _section("objectives", objective), _section("models", network)

    @dataclass
    class Options(Common):
        objective: chosen_objective = field(default_factory=chosen_objective)  # what is minimised
        network: chosen_network = field(default_factory=chosen_network)  # what is trained

    return Options


def main(options: Any) -> None:
    processes = distributed.start(options.device)
    objective, identity = build(options)
    if processes.first:
        write_lines(options.exp / "config.yaml", [yaml.safe_dump(_config(options), sort_keys=False).rstrip()])
        parameters = sum(p.numel() for p in objective.parameters()) / 1e6
        print(
            f"{identity['inputs']['count']:,} utterances, {parameters:.2f} M parameters, "
            f"{options.training.steps:,} steps of {options.training.batch_size} on {processes.device}"
        )
    Trainer(objective, options.training, options.exp, identity, processes, options.seed, _defaults(options)).run()
    distributed.stop()


def build(options: Any) -> tuple[Objective, dict[str, Any]]:
    """What is trained, with its data; and what makes this run the same as another one."""
    module = find("objectives", options.objective.name)
    kind = objective_named(options.objective.name)
    utterances = kind.open_data(options.data, options.objective)
    # Speakers are opened only by the configs that say, in so many words, that they are supervised.
    column = kind.label_column(options.objective)
    labels = read_labels(options.labels, utterances, column) if options.labels else None
    torch.manual_seed(options.seed)
    banks = open_banks(options.noise)
    task = Task(
        utterances,
        banks,
        options.augment,
        options.training.batch_size,
        options.seed,
        options.training.steps,
        options.network,
        labels,
    )
    objective = module.build(options.objective, task)
    if options.start_from:
        checkpoints.start_from(options.start_from, objective.embedding_network())
    identity = _identity(options, utterances, banks, labels)
    identity["inputs"] |= objective.digests()
    return objective, identity


def _name_of(part: str, argv: list[str]) -> str | None:
    """The name in this section of the configs, or on the command line; the last one holds."""
    sections = [load_yaml(Path(path)).get(part) for path in values_of("--config", argv)]
    names = [section["name"] for section in sections if isinstance(section, dict) and "name" in section]
    return next(reversed(names + values_of(f"--{part}.name", argv)), None)


def _section(package: str, name: str) -> type:
    """The Config of cslib.<package>.<name>, with its name as a field."""
    config = find(package, name).Config
    named = make_dataclass(config.__qualname__, [("name", str, name)], bases=(config,))
    named.__doc__ = config.__doc__
    return named


def _identity(options: Any, utterances: Utterances, banks: Banks, labels: np.ndarray | None) -> dict[str, Any]:
    """What makes two runs the same: config and inputs by content; not where they lie or how they are read."""
    config = _config(options, of_effect=True)
    config["training"] = {
        key: value for key, value in config["training"].items() if key not in ("workers", "log_every", "keep_every")
    }
    kinds = {**banks.noise, **({"rirs": banks.rirs} if banks.rirs else {})}
    digest = {
        "utterances": utterances.digest(),
        "count": len(utterances),
        "noise": {kind: _hash(bank.segments.tobytes() + _sample(bank.samples)) for kind, bank in kinds.items()},
        "labels": _hash(labels.tobytes()) if labels is not None else None,
        "start_from": _hash(options.start_from.read_bytes()) if options.start_from else None,
    }
    return {"config": config, "inputs": digest}


def _defaults(options: Any) -> dict[str, Any]:
    """Of all options that have one, as `to_dict` gives them."""
    made = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(options)
    }
    return {name: to_dict(value) for name, value in made.items() if value is not MISSING}


def _config(options: Any, of_effect: bool = False) -> dict[str, Any]:
    """All options but those that say where things lie.

    of_effect  without those, too, that a section calls unused
    """
    config = _section_of(options, of_effect)
    for place in ("data", "exp", "noise", "labels", "start_from", "device"):
        config.pop(place, None)
    return config


def _section_of(config: Any, of_effect: bool) -> Any:
    if not is_dataclass(config):
        return to_dict(config)
    hints, left_out = get_type_hints(type(config)), getattr(config, "unused", ()) if of_effect else ()
    return {
        field.name: _section_of(getattr(config, field.name), of_effect)
        for field in fields(config)
        if not _is_path(hints[field.name]) and field.name not in left_out
    }


def _is_path(hint: Any) -> bool:
    """Of Path, Path | None, list[Path], ..., whatever the value is."""
    return hint is Path or any(map(_is_path, get_args(hint)))


def _sample(values: np.ndarray) -> bytes:
    """Ten thousand values from all over: synthetic noises are all of one length, whatever their seed."""
    return values[:: max(1, len(values) // 10_000)].tobytes()


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    run(main, options_of_command)
