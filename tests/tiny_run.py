"""A training of a few seconds, for tests of the training loop and of scripts that use a trained network."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import soundfile
import torch

from cslib.config import parse
from cslib.data.manifests import Entry, write_set
from cslib.training.loop import Trainer
from local import train as script

ROOT = Path(script.__file__).parents[1]
CONFIG = """
objective:
  name: csc
  bank: swap
  cell: 6
  passes: 2
  mixtures: {crop_seconds: 0.5}
network: {name: galr, window: 400, filters: 16, features: 8, hidden: 8, segment: 8, heads: 2, low_dim: 4,
          shared_blocks: 1, speech_blocks: 1, speaker_blocks: 1, embedding_size: 8, dropout: 0.2}
training: {steps: 8, batch_size: 4, learning_rate: 0.01, checkpoint_every: 3, log_every: 1, workers: 0}
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def make_set(folder: Path, count: int = 8, seconds: float = 2.0) -> Path:
    """Make data/<set> of noise with speakers.tsv, and the config file beside it."""
    (folder / "audio").mkdir(parents=True)
    entries = []
    for n in range(count):
        path = folder / f"audio/u{n:02d}.flac"
        samples = np.random.default_rng(n).normal(0, 3000, int(seconds * 16000) + 100 * n).astype(np.int16)
        soundfile.write(path, samples, 16000)
        entries.append(Entry(f"u{n:02d}", path, len(samples), speaker=f"s{n % 3}"))
    write_set(folder, entries)
    folder.with_name("config.yaml").write_text(CONFIG)
    return folder


def words(data: Path, exp: Path, *more: str) -> list[str]:
    """The command line of local/train.py."""
    return [
        "local/train.py",
        "--config",
        str(data.with_name("config.yaml")),
        "--data",
        str(data),
        "--exp",
        str(exp),
        "--device",
        "cpu",
        *more,
    ]


def command(data: Path, exp: Path, *more: str) -> list[str]:
    return [sys.executable, *words(data, exp, *more)]


def train(data: Path, exp: Path, *more: str) -> Path:
    """Run local/train.py in this process, on one thread, as `command` would run it."""
    return run_script(words(data, exp, *more))


def run_script(argv: list[str]) -> Path:
    """`train` with this command line; returns its --exp."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with patch.object(sys, "argv", argv):
            script.main(parse(script.options_of_command()))
    finally:
        torch.set_num_threads(threads)
    return Path(argv[argv.index("--exp") + 1])


ON_TWO_PROCESSES = """
import sys
from cslib.config import parse
from cslib.training import distributed
from local import train

processes = distributed.start("cpu")
distributed.start, leave, distributed.stop = lambda _: processes, distributed.stop, lambda: None
for sys.argv in {runs!r}:
    train.main(parse(train.options_of_command()))
leave()
"""


def train_on_two_processes(script: Path, runs: list[list[str]], first: str = "") -> subprocess.CompletedProcess:
    """Run local/train.py with each of these command lines under torchrun, one after the other in two processes.

    script  where to write the program that does it
    first   code at its beginning
    """
    script.write_text(first + ON_TWO_PROCESSES.format(runs=runs))
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)],
        cwd=ROOT,
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )


def interrupted(monkeypatch: pytest.MonkeyPatch, steps: int, *run: Any) -> None:
    """`train`, interrupted after this many steps."""
    original = Trainer._train_step

    def step(self: Trainer, batch: dict[str, Any]) -> Any:
        if self.step == steps:
            raise KeyboardInterrupt
        return original(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_train_step", step)
        train(*run)


def log(exp: Path) -> list[dict]:
    return [json.loads(line) for line in (exp / "log.jsonl").read_text().splitlines()]


def losses(exp: Path) -> list[float]:
    return [line["loss"] for line in log(exp)]


def encoder(exp: Path) -> dict[str, torch.Tensor]:
    return torch.load(exp / "checkpoints/final.pt", weights_only=True)["encoder"]


def same_training(one: Path, other: Path) -> bool:
    """Whether two runs logged the same losses and ended in the same encoder, bit for bit."""
    mine, its = encoder(one), encoder(other)
    return (
        losses(one) == losses(other)
        and mine.keys() == its.keys()
        and all(torch.equal(mine[name], its[name]) for name in mine)
    )
