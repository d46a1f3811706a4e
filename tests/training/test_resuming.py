"""An interrupted run, continued, equals the uninterrupted run bit for bit."""

import os
import re
import signal
import subprocess
import time

import pytest
import torch

from cslib.objectives.csc.objective import Csc
from tests.tiny_run import ENVIRONMENT, ROOT, command, interrupted, log, losses, same_training, train

pytestmark = pytest.mark.slow  # starts processes that import torch


def start_and_wait_for(path, *run, **options):
    process = subprocess.Popen(
        command(*run), cwd=ROOT, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.002)
    return process


def test_killed_run_continues_to_the_result_of_an_uninterrupted_run(data, tmp_path):
    run, steps = tmp_path / "run", ["--training.steps", "40"]
    process = start_and_wait_for(run / "checkpoints/step-00000003.pt", data, run, *steps, "--training.workers", "1")
    time.sleep(0.05)  # wherever it then is
    process.kill()
    process.communicate()
    assert not (run / "checkpoints/final.pt").exists()
    assert same_training(train(data, run, *steps), train(data, tmp_path / "whole", *steps))


@pytest.mark.parametrize("saving", [{"checkpoint_every": 1000}, {"checkpoint_every": 9, "average_last": 4}])
def test_sigterm_to_all_processes_saves_and_stops_and_the_next_run_continues(data, tmp_path, saving):
    """The additional checkpoint must not enter the mean over the last checkpoints either."""
    steps = ["--training.steps", "40", *(f"--training.{name}={value}" for name, value in saving.items())]
    run = tmp_path / "run"
    process = start_and_wait_for(
        run / "log.jsonl", data, run, *steps, "--training.workers", "1", start_new_session=True
    )
    while len(log(run)) < 2:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGTERM)
    _, message = process.communicate(timeout=60)
    found = re.fullmatch(r"error: stopped by a signal after step (\d+), which is saved; .*\n", message)
    assert process.returncode == 1 and found, message
    assert f"step-{int(found[1]):08d}.pt" in [path.name for path in (run / "checkpoints").iterdir()]
    assert same_training(train(data, run, *steps), train(data, tmp_path / "whole", *steps))


@pytest.mark.parametrize(
    "at, options",
    [
        (4, ["--objective.bank", "swap"]),
        (7, ["--objective.bank", "fifo", "--training.ema", "0.9"]),
        (5, ["--objective.bank", "batch", "--training.average_last", "3", "--training.optimiser", "sgd"]),
        (3, ["--objective.global_vector", "table", "--training.warmup_steps", "4"]),
    ],
)
def test_resumed_run_equals_uninterrupted_run(data, tmp_path, monkeypatch, at, options):
    interrupted(monkeypatch, at, data, tmp_path / "run", *options)
    assert log(tmp_path / "run")[-1]["step"] == at
    train(data, tmp_path / "run", *options)
    assert same_training(tmp_path / "run", train(data, tmp_path / "whole", *options))
    assert [line["step"] for line in log(tmp_path / "run")] == list(range(1, 9))


def test_these_runs_use_dropout(data, whole, tmp_path):
    assert losses(train(data, tmp_path / "run", "--network.dropout", "0")) != losses(whole)


def test_loader_processes_change_nothing(data, whole, tmp_path):
    assert same_training(train(data, tmp_path / "run", "--training.workers", "2"), whole)


def test_another_seed_is_another_training(data, whole, tmp_path):
    train(data, tmp_path / "run", "--seed", "1", "--training.steps", "3")
    assert losses(tmp_path / "run")[0] != losses(whole)[0]


def test_deterministic_option_changes_nothing_on_a_cpu_and_is_no_other_run(data, whole, tmp_path, monkeypatch):
    used = []

    original = Csc.after_step

    def after_step(self):
        used.append(torch.are_deterministic_algorithms_enabled())
        original(self)

    monkeypatch.setattr(Csc, "after_step", after_step)
    interrupted(monkeypatch, 4, data, tmp_path / "run")
    assert used == [False] * 4
    train(data, tmp_path / "run", "--training.deterministic", "true")
    assert used == [False] * 4 + [True] * 5  # from the checkpoint of step 3 on
    assert not torch.are_deterministic_algorithms_enabled()
    assert same_training(tmp_path / "run", whole)
