"""Everyday commands for a trained network.

    python -m cslib embed a.wav b.mp3 --checkpoint exp/mini_csc/checkpoints/final.pt --out embeddings.npz
    python -m cslib verify a.wav b.mp3 --checkpoint exp/mini_csc/checkpoints/final.pt
    python -m cslib enhance recordings --checkpoint exp/mini_crn/ccr/checkpoints/final.pt --out enhanced
    python -m cslib info exp/mini_csc/checkpoints/final.pt
    python -m cslib export exp/mini_csc/checkpoints/final.pt --out model.onnx

embed     a vector for each recording, alike for recordings of one voice
verify    are two recordings of one speaker?
enhance   noisy recordings to clean ones
info      what a checkpoint is
export    the embedding network as ONNX or TorchScript, from waveform to vector

`python -m cslib embed --help` tells more about one of them, with an example. Where python or cslib is not found,
`. ./path.sh` in the project's folder, in bash, makes them known to this shell.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys

from cslib import commands
from cslib.config import run


def main() -> None:
    known = sorted(module.name for module in pkgutil.iter_modules(commands.__path__))
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(__doc__.strip())
    elif name not in known:
        sys.exit(f"error: there is no command {name!r}; there are: {', '.join(known)}")
    else:
        command = importlib.import_module(f"cslib.commands.{name}")
        # Whether the same command would go on or begin anew depends on the command, so that nothing is promised.
        run(command.main, command.Options, words, inspect.getdoc(command), f"python -m cslib {name}", "interrupted")


if __name__ == "__main__":
    main()
