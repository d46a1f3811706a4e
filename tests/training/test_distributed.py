"""Several processes compute what one computes."""

import subprocess
import sys

import pytest
import torch

from cslib.config import UserError
from cslib.training.distributed import Processes, synchronise_batch_norms
from tests.tiny_run import (
    ENVIRONMENT,
    ROOT,
    command,
    encoder,
    log,
    losses,
    same_training,
    train,
    train_on_two_processes,
    words,
)

pytestmark = pytest.mark.slow  # starts processes that import torch


def test_two_processes_compute_what_one_computes(data, tmp_path):
    # Not adam: where a gradient is zero, it scales rounding errors up to steps of full size.
    options = [
        "--network.dropout",
        "0",
        "--training.steps",
        "6",
        "--training.optimiser",
        "sgd",
        "--training.learning_rate",
        "1e-3",
    ]
    banks = {"swap": [], "batch": ["--objective.bank", "batch"]}
    train_on_two_processes(
        tmp_path / "all.py", [words(data, tmp_path / f"two-{name}", *options, *more) for name, more in banks.items()]
    )
    for name, more in banks.items():
        train(data, tmp_path / name, *options, *more)
        one, two = tmp_path / name, tmp_path / f"two-{name}"
        for part in ("loss", "contrast", "separation", "gradient_norm"):
            wanted = [line[part] for line in log(one)]
            assert [line[part] for line in log(two)] == pytest.approx(wanted, rel=2e-5), (name, part)
        mine, its = encoder(one), encoder(two)
        assert all(torch.allclose(mine[key], its[key], atol=1e-5) for key in mine), name


STATISTICS_AROUND_EVERY_SAVE = """
import sys
import torch
from cslib.config import parse
from cslib.training.loop import Trainer
from local import train

save, found = Trainer._save, []

def statistics(trainer):
    return [buffer.clone() for module in (trainer.objective, trainer.ema)
            for name, buffer in module.named_buffers() if "running_" in name]

def watched(trainer):
    before = statistics(trainer)
    save(trainer)
    found.append((trainer.step, before, statistics(trainer)))
    torch.save(found, f"{sys.argv[0]}.{trainer.processes.rank}")

Trainer._save = watched
train.main(parse(train.options_of_command()))
"""


def test_running_statistics_are_averaged_over_cpu_processes(data, tmp_path):
    script, run = tmp_path / "watched.py", tmp_path / "run"
    script.write_text(STATISTICS_AROUND_EVERY_SAVE)
    options = ["--network.embedding_norm", "batch", "--training.ema", "0.5", "--training.steps", "4"]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            str(script),
            *command(data, run, *options)[2:],
        ],
        cwd=ROOT,
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    one, other = (torch.load(f"{script}.{rank}", weights_only=True) for rank in range(2))
    assert [step for step, *_ in one] == [step for step, *_ in other] == [3, 4]
    for (_, my_before, mine), (_, its_before, its) in zip(one, other, strict=True):
        assert len(mine) == 4  # mean and variance, of the network and of its moving average
        for values in zip(my_before, its_before, mine, its, strict=True):
            assert not torch.equal(values[0], values[1]) and torch.equal(values[2], values[3])
            torch.testing.assert_close(values[2], (values[0] + values[1]) / 2)
    assert torch.equal(encoder(run)["embedding_norm.running_mean"], one[-1][2][2])


@pytest.mark.parametrize("count, device, synchronised", [(2, "cuda", True), (1, "cuda", False), (2, "cpu", False)])
def test_batch_norms_are_synchronised_on_gpus_only(count, device, synchronised):
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Sequential(torch.nn.BatchNorm1d(3)))
    before = network.state_dict()
    synchronise_batch_norms(network, Processes(0, count, torch.device(device)))
    assert isinstance(network[1][0], torch.nn.SyncBatchNorm) == synchronised
    assert network.state_dict().keys() == before.keys()  # one GPU can load what many have trained


def test_batch_that_cannot_be_shared_is_one_sentence(data, tmp_path, monkeypatch):
    monkeypatch.setattr("local.train.distributed.start", lambda _: Processes(0, 3, torch.device("cpu")))
    with pytest.raises(UserError, match=r"batch_size is 4; it must be a multiple of the number of processes \(3\)"):
        train(data, tmp_path / "run")


def forget_after(run, step):
    """Leave a run as if it had been killed after the checkpoint of this step."""
    for path in (run / "checkpoints").iterdir():
        if path.name != f"step-{step:08d}.pt":
            path.unlink()


def test_run_continues_with_another_number_of_processes(data, tmp_path, capfd):
    """Without dropout and batch norm, every number of processes computes the same."""
    options = ["--network.dropout", "0", "--training.optimiser", "sgd", "--training.learning_rate", "1e-3"]
    whole = train(data, tmp_path / "whole", *options)
    one_two = train(data, tmp_path / "one_two", *options)
    forget_after(one_two, 3 * 2)
    two_one = tmp_path / "two_one"
    done = train_on_two_processes(tmp_path / "all.py", [words(data, exp, *options) for exp in (two_one, one_two)])
    forget_after(two_one, 3 * 2)
    capfd.readouterr()
    train(data, two_one, *options)
    printed = capfd.readouterr()
    assert "continuing after step 6" in printed.out and "continuing after step 6" in done.stdout
    assert "warning: the run was saved by 2 processes and is continued by 1: batches and their order" in printed.err
    assert "warning: the run was saved by 1 process and is continued by 2: batches and their order" in done.stderr
    for run in (one_two, two_one):
        assert [line["step"] for line in log(run)] == list(range(1, 9))
        assert losses(run) == pytest.approx(losses(whole), rel=2e-5)
        mine, its = encoder(run), encoder(whole)
        assert all(torch.allclose(mine[key], its[key], atol=1e-5) for key in its)


def test_generator_of_each_process_is_restored_when_their_number_stays(data, tmp_path):
    """With dropout, two processes that were killed and continued equal two that were not."""
    steps = ["--training.steps", "6"]
    runs = {name: words(data, tmp_path / name, *steps) for name in ("whole", "stopped")}
    train_on_two_processes(tmp_path / "all.py", list(runs.values()))
    forget_after(tmp_path / "stopped", 3)
    train_on_two_processes(tmp_path / "again.py", [runs["stopped"]])
    assert same_training(tmp_path / "stopped", tmp_path / "whole")
