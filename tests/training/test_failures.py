"""Training that fails ends with one sentence, and keeps the last good checkpoint."""

import math
import resource
import subprocess

import pytest

from cslib import checkpoints
from cslib.config import UserError
from cslib.objectives.csc.objective import Csc
from tests.tiny_run import ENVIRONMENT, ROOT, command, same_training, train

pytestmark = pytest.mark.slow  # starts processes that import torch


@pytest.mark.parametrize(
    "place", ["cslib.objectives.csc.objective.Csc.forward", "cslib.datasets.mixtures.Mixtures.__getitem__"]
)
def test_bug_ends_training_with_a_traceback_and_without_waiting_for_the_loader(data, tmp_path, place):
    module, kind, method = place.rsplit(".", 2)
    fails = (
        f"import runpy, sys; from {module} import {kind}\n"
        f"def broken(*_): raise RuntimeError('a bug')\n"
        f"{kind}.{method} = broken\n"
        "sys.argv = sys.argv[1:]; runpy.run_path('local/train.py', run_name='__main__')"
    )
    wanted = command(data, tmp_path / "run", "--training.workers", "1")
    done = subprocess.run(
        [wanted[0], "-c", fails, *wanted[1:]], cwd=ROOT, env=ENVIRONMENT, timeout=60, capture_output=True, text=True
    )
    assert done.returncode == 1 and "RuntimeError: a bug" in done.stderr


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_infinite_loss_or_gradient_stops_with_step_utterances_and_advice(data, whole, tmp_path, monkeypatch, where):
    original = Csc.forward

    def forward(self, batch):
        losses = original(self, batch)
        if self.step == 3:  # at the step after the first checkpoint
            # The gradient of a square root at zero is infinite, its value is not.
            losses.total = (
                losses.total * math.nan
                if where == "loss"
                else losses.total + (self.log_alpha - self.log_alpha.detach()).square().sum().sqrt()
            )
            self.names = batch["ids"]
        return losses

    with monkeypatch.context() as patch, pytest.raises(UserError) as error:
        patch.setattr(Csc, "forward", forward)
        train(data, tmp_path / "run")
    message = str(error.value)
    assert "not finite at step 4" in message and "training.learning_rate" in message and "\n" not in message
    held = message.split("the batch held: ")[1].split(";")[0].split()
    assert len(held) == 8 and set(held) <= {f"u{n:02d}" for n in range(8)}  # 4 mixtures of 2
    assert [path.name for path in checkpoints.numbered(tmp_path / "run/checkpoints")] == ["step-00000003.pt"]
    assert same_training(train(data, tmp_path / "run"), whole)


def test_full_disk_leaves_the_last_good_checkpoint(data, whole, tmp_path, monkeypatch):
    original = checkpoints.save

    def save(path, state):
        """A limit on the size of files fails where a full disk fails: in the middle of the writing."""
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        if state["step"] == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            original(path, state)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    with monkeypatch.context() as patch, pytest.raises(UserError) as error:
        patch.setattr(checkpoints, "save", save)
        train(data, tmp_path / "run")
    assert "step-00000006.pt: could not be written" in str(error.value) and "\n" not in str(error.value)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000003.pt"]
    assert same_training(train(data, tmp_path / "run"), whole)


def test_batch_norm_over_one_item_is_one_sentence(data, tmp_path):
    options = ["--network.embedding_norm", "batch", "--training.batch_size"]
    with pytest.raises(UserError, match="batch_size is too small: batch norm needs at least two items per process"):
        train(data, tmp_path / "run", *options, "1")
    train(data, tmp_path / "run", *options, "2")
