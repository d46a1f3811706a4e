"""Everyday commands for a trained network.

    python -m cslib embed a.wav b.mp3 --out embeddings.npz
    python -m cslib verify enrol.wav test.mp3
    python -m cslib enhance recordings --checkpoint exp/mini_crn/ccr/checkpoints/final.pt --out enhanced
    python -m cslib info models/speaker.pt
    python -m cslib export models/speaker.pt --out model.onnx

embed     embed recordings: a vector for each, similar for recordings of one voice
verify    do two recordings have the same speaker?
enhance   enhance noisy recordings
info      describe a checkpoint
export    export an embedding network, from waveform to vector, as ONNX or TorchScript

embed and verify use the network that comes with the project, models/speaker.pt; --checkpoint selects another.
`python -m cslib embed --help` describes a command, with an example. If the shell does not find python or cslib, run
`. ./path.sh` in the project's folder first (bash).
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
        sys.exit(f"error: there is no command {name!r}; the commands are {', '.join(known)}")
    else:
        command = importlib.import_module(f"cslib.commands.{name}")
        # Whether the same command would continue or start again depends on the command: the message promises neither.
        run(command.main, command.Options, words, inspect.getdoc(command), f"python -m cslib {name}", "interrupted")


if __name__ == "__main__":
    main()
