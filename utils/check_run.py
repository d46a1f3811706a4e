"""Check all that a recipe is told before anything is made, in one process.

    python utils/check_run.py --gpus 2 --same-network dino.yaml round.yaml --enhance none=A.pt,ccr=B.pt \\
        -- parse local/train.py --config dino.yaml --data d --exp e \\
        -- open local/check_space.py --space.name logmel

    parse  SCRIPT OPTION...   the script takes these options; nothing runs
    open   SCRIPT OPTION...   the script runs with them: it only opens what it is told

Ends with one sentence and status 1 at the first mistake. Else it prints answers for the recipe, one a line:

    steps N                of the first training
    needs_negatives yes|no whether one of the trainings contrasts enhanced speech with negatives
    same_network yes|no    whether the two configs of --same-network describe the same network
    enhancer NAME FILE     for each of --enhance
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cslib.config import UserError, parse, run, to_dict, with_bases


@dataclass
class Options:
    gpus: int = 0  # GPUs that the recipe is to use
    here: Path = Path()  # folder that the files of --enhance are relative to
    enhance: str = ""  # checkpoint of an enhancement network, or several as NAME=FILE,NAME=FILE
    same_network: list[Path] = field(default_factory=list)  # two training configs whose networks are compared


def main(options: Options, groups: list[list[str]]) -> None:
    check_gpus(options.gpus)
    enhancers = find_enhancers(options.enhance, options.here)
    parsed = [check(*group) for group in groups]
    for name, path in enhancers.items():
        with_name(f"--enhance {name}", lambda path=path: open_("local/enhance.py", ["--checkpoint", str(path)]))
    trainings = [one for one in parsed if hasattr(one, "training")]
    if trainings:
        print(f"steps {trainings[0].training.steps}")
        print(f"needs_negatives {'yes' if any(map(needs_negatives, trainings)) else 'no'}")
    if options.same_network:
        one, other = (network_of(path) for path in options.same_network)
        print(f"same_network {'yes' if one == other else 'no'}")
    for name, path in enhancers.items():
        print(f"enhancer {name} {path}")


def check_gpus(wanted: int) -> None:
    if wanted:
        import torch

        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if wanted > found:
            raise UserError(f"--gpus {wanted}: torch can use {found} GPUs here; --gpus 0 uses the CPU")


def find_enhancers(text: str, here: Path) -> dict[str, Path]:
    """{name: file} of a list NAME=FILE,NAME=FILE; a FILE alone is called "enhanced".

    Raises UserError when a file is missing or two have one name.
    """
    found: dict[str, Path] = {}
    for word in filter(None, text.split(",")):
        match = re.fullmatch(r"([A-Za-z0-9_]+)=(.+)", word)
        name, file = match.groups() if match else ("enhanced", word)
        if not (here / file).is_file():
            raise UserError(
                f"--enhance: there is no file {file} (names, as in none=A,ccr=B, have letters, digits and _)"
            )
        if name in found:
            raise UserError(f"--enhance: two are called {name}; name them, as in none=A,ccr=B")
        found[name] = here / file
    return found


def check(how: str, script: str, *words: str) -> Any:
    """One group; the options that were parsed. A mistake is told with the config that holds it."""
    configs = [following for word, following in zip(words, words[1:], strict=False) if word == "--config"]
    action = {"parse": parse_, "open": open_}[how]
    return with_name(configs[-1] if configs else "", lambda: action(script, list(words)))


def with_name(name: str, action: Any) -> Any:
    try:
        return action()
    except UserError as error:
        raise UserError(f"{name}: {error}" if name and not str(error).startswith(name) else str(error)) from None


def parse_(script: str, words: list[str]) -> Any:
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    kind = module.options_of_command(words) if hasattr(module, "options_of_command") else module.Options
    return parse(kind, words)


def open_(script: str, words: list[str]) -> Any:
    options = parse_(script, words)
    with contextlib.redirect_stdout(io.StringIO()):
        sys.modules[script.removesuffix(".py").replace("/", ".")].main(options)
    return options


def needs_negatives(training: Any) -> bool:
    return getattr(getattr(training.objective, "regulariser", None), "needs_negatives", False)


def network_of(config: Path) -> dict[str, Any]:
    """The section `network` of a training config, with what is left to the defaults."""
    words = with_bases(["--config", str(config), "--data", "d", "--exp", "e"])
    return to_dict(with_name(str(config), lambda: parse_("local/train.py", words)).network)


def groups_of(argv: list[str]) -> tuple[list[str], list[list[str]]]:
    """The options before the first "--", and the words of each group behind one."""
    groups: list[list[str]] = [[]]
    for word in argv:
        groups.append([]) if word == "--" else groups[-1].append(word)
    return groups[0], groups[1:]


if __name__ == "__main__":
    own, others = groups_of(sys.argv[1:])
    run(lambda options: main(options, others), Options, own)
