"""Name the network of each system of a run, and keep that of the last system as <run>/best.pt, the one to use.

    python local/keep_best.py --run exp/mini_csc \\
        --networks csc=exp/mini_csc/checkpoints/final.pt,final=exp/mini_csc/final/checkpoints/final.pt

The last system is the best one by the design of the recipe: neither labels nor error rates decide. The calibration of
its network is written beside the copy, as best.calibration.json. `python -m cslib info` of the copy names its run and
system.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cslib.config import require, run
from cslib.files import aligned
from cslib.inference.shipped import copy_network


@dataclass
class Options:
    run: Path  # run folder; makes best.pt in it
    networks: str  # the network of each system, in the order of training: csc=A/final.pt,final=B/final.pt


def main(options: Options) -> None:
    networks = named_paths(options.networks)
    (*_, (system, path)), best = networks.items(), options.run / "best.pt"
    calibration = copy_network(Path(path), best, run=public_name(options.run), system=system)
    networks[system] = f"{path}; copied to {best}{'' if calibration else ' (no calibration)'}, the network to use"
    print(aligned([["system", "network"], *(list(pair) for pair in networks.items())], left=2))


def named_paths(text: str) -> dict[str, str]:
    """{name: path}. Raises UserError when the text is something else."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    good = bool(pairs) and all(name and path for name, _, path in pairs)
    require(good, "--networks", text, "a list such as csc=A/final.pt,final=B/final.pt")
    return {name: path for name, _, path in pairs}


def public_name(folder: Path) -> str:
    """The folder relative to the current one or, elsewhere, its name: copies leave this machine."""
    absolute = folder.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else absolute.name


if __name__ == "__main__":
    run(main, Options)
