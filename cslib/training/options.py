"""The options of a training: those of every training, and those that the objective and the network add."""

from __future__ import annotations

import sys
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from cslib.config import UserError, find, known_names, load_yaml, to_dict, values_of, with_bases
from cslib.datasets.augmentation import AugmentConfig
from cslib.training.config import TrainingConfig

PLACES = ("data", "exp", "noise", "labels", "start_from", "device")  # where things are, not what they are


@dataclass
class Common:
    """The options that do not depend on the objective and the network."""

    data: Path  # data/<set> to train on
    exp: Path  # run folder: checkpoints/final.pt, the result; config.yaml, log.jsonl, tensorboard/
    noise: Path | None = None  # data/<corpus>/noise; none: neither noise nor RIRs
    labels: Path | None = None  # table of pseudo-labels, for objectives that need them
    start_from: Path | None = None  # a final.pt whose weights initialise the network
    seed: int = 0  # of the initial weights, the crops and the augmentation
    device: str = "auto"  # auto | cpu | cuda
    augment: AugmentConfig = field(default_factory=AugmentConfig)  # RIRs and noise
    training: TrainingConfig = field(default_factory=TrainingConfig)  # the training loop


def options_of_command(argv: list[str] | None = None) -> type:
    """The options class for a command line (default: sys.argv[1:]), with the `objective` and `network` it names.

    Raises UserError when one of them is not named or does not exist.
    """
    argv = with_bases(sys.argv[1:] if argv is None else argv)
    objective, network = _name_of("objective", argv), _name_of("network", argv)
    if objective and network:
        return options_for(objective, network)
    if {"-h", "--help"} & set(argv):
        return Common
    raise UserError("--config: a training needs `objective: {name: ...}` and `network: {name: ...}` in its config")


def options_for(objective: str, network: str) -> type:
    """Dataclass of all options of a training. Raises UserError for an unknown objective or network."""
    sections = {
        "objective": (_section("objectives", objective), "what is minimised"),
        "network": (_section("models", network), "what is trained"),
    }
    return make_dataclass(
        "Options",
        [
            (name, section, field(default_factory=section, metadata={"help": text}))
            for name, (section, text) in sections.items()
        ],
        bases=(Common,),
    )


def config_of(options: Any, of_effect: bool = False) -> dict[str, Any]:
    """Options as nested dictionaries, without paths and without the device.

    of_effect  also leave out the options that their section lists in its property `unused`
    """
    config = _values(options, of_effect)
    return {name: value for name, value in config.items() if name not in PLACES}


def defaults_of(options: Any) -> dict[str, Any]:
    """The defaults of the same options; those without a default are missing."""
    made = {
        option.name: option.default if option.default_factory is MISSING else option.default_factory()
        for option in fields(options)
    }
    return {name: to_dict(value) for name, value in made.items() if value is not MISSING}


def unknown_option(config: dict[str, Any]) -> str | None:
    """Full name of the first option in a saved config that this version of the code does not have."""
    for section, package in (("objective", "objectives"), ("network", "models")):
        values = config.get(section)
        if not isinstance(values, dict) or "name" not in values:
            return None  # not a config that a training of this project saved
        if values["name"] not in known_names(package):
            return f"{section}.name {values['name']}"
    return _first_unknown(config, options_for(config["objective"]["name"], config["network"]["name"]))


def _first_unknown(values: dict[str, Any], kind: type, prefix: str = "") -> str | None:
    hints = get_type_hints(kind)
    for name, value in values.items():
        if name not in hints:
            return f"{prefix}{name}"
        if is_dataclass(hints[name]) and isinstance(value, dict):
            unknown = _first_unknown(value, hints[name], f"{prefix}{name}.")
            if unknown:
                return unknown
    return None


def _name_of(section: str, argv: list[str]) -> str | None:
    """The name that the config files or the command line give in this section; the last one counts."""
    sections = [load_yaml(Path(path)).get(section) for path in values_of("--config", argv)]
    names = [values["name"] for values in sections if isinstance(values, dict) and "name" in values]
    return next(reversed(names + values_of(f"--{section}.name", argv)), None)


def _section(package: str, name: str) -> type:
    """The Config of cslib.<package>.<name>, with the field `name` added."""
    config = find(package, name).Config
    named = make_dataclass(config.__qualname__, [("name", str, name)], bases=(config,))
    named.__doc__ = config.__doc__
    return named


def _values(config: Any, of_effect: bool) -> Any:
    if not is_dataclass(config):
        return to_dict(config)
    hints, left_out = get_type_hints(type(config)), getattr(config, "unused", ()) if of_effect else ()
    return {
        option.name: _values(getattr(config, option.name), of_effect)
        for option in fields(config)
        if not _is_path(hints[option.name]) and option.name not in left_out
    }


def _is_path(hint: Any) -> bool:
    """Whether a type is Path, Path | None, list[Path] or the like."""
    return hint is Path or any(map(_is_path, get_args(hint)))
