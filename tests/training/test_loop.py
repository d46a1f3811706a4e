"""The loop: stopped, it goes on bit for bit; shared out, it computes the same; in trouble, it says so."""

import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch

from cslib import checkpoints
from cslib.config import UserError
from cslib.objectives.csc.objective import Csc
from cslib.training.distributed import Processes, synchronise_batch_norms
from cslib.training.loop import Trainer, TrainingConfig, learning_rate
from tests.tiny_run import (
    ENVIRONMENT,
    ROOT,
    command,
    encoder,
    log,
    losses,
    make_set,
    same_training,
    train,
    train_on_two_processes,
    words,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("data") / "train")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An uninterrupted run."""
    return train(data, tmp_path_factory.mktemp("exp") / "whole")


def interrupt_after(monkeypatch, steps):
    original = Trainer._train_step

    def step(self, batch):
        if self.step == steps:
            raise KeyboardInterrupt
        return original(self, batch)

    monkeypatch.setattr(Trainer, "_train_step", step)


def interrupted(monkeypatch, steps, *run):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, steps)
        train(*run)


def start_and_wait_for(path, *run, **options):
    process = subprocess.Popen(
        command(*run), cwd=ROOT, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.002)
    return process


def test_killed_run_goes_on_to_where_the_uninterrupted_run_ends(data, tmp_path):
    run, steps = tmp_path / "run", ["--training.steps", "40"]
    process = start_and_wait_for(run / "checkpoints/step-00000003.pt", data, run, *steps, "--training.workers", "1")
    time.sleep(0.05)  # wherever it then is
    process.kill()
    process.communicate()
    assert not (run / "checkpoints/final.pt").exists()
    assert same_training(train(data, run, *steps), train(data, tmp_path / "whole", *steps))


@pytest.mark.parametrize("saving", [{"checkpoint_every": 1000}, {"checkpoint_every": 9, "average_last": 4}])
def test_sigterm_to_all_processes_saves_stops_and_the_next_run_goes_on(data, tmp_path, saving):
    """Also where the final weights are a mean over checkpoints, of which the signal makes one more."""
    steps = ["--training.steps", "40", *(f"--training.{name}={value}" for name, value in saving.items())]
    run = tmp_path / "run"
    process = start_and_wait_for(
        run / "log.jsonl", data, run, *steps, "--training.workers", "1", start_new_session=True
    )
    while len(log(run)) < 2:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    found = re.fullmatch(r"error: stopped by a signal at step (\d+), all of it saved; .*\n", told)
    assert process.returncode == 1 and found, told
    assert f"step-{int(found[1]):08d}.pt" in [path.name for path in (run / "checkpoints").iterdir()]
    assert same_training(train(data, run, *steps), train(data, tmp_path / "whole", *steps))


@pytest.mark.parametrize(
    "place", ["cslib.objectives.csc.objective.Csc.forward", "cslib.datasets.mixtures.Mixtures.__getitem__"]
)
def test_training_that_meets_a_bug_ends_with_its_traceback_and_does_not_wait_for_its_loader(data, tmp_path, place):
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


def test_line_that_a_killed_run_wrote_in_part_is_dropped(data, whole, tmp_path, monkeypatch):
    interrupted(monkeypatch, 4, data, tmp_path / "run")
    with open(tmp_path / "run/log.jsonl", "a") as file:
        file.write('{"step": 5, "lo')
    assert same_training(train(data, tmp_path / "run"), whole)


def test_dropout_is_at_work_in_these_runs(data, whole, tmp_path):
    assert losses(train(data, tmp_path / "run", "--network.dropout", "0")) != losses(whole)


def test_loader_processes_change_nothing(data, whole, tmp_path):
    assert same_training(train(data, tmp_path / "run", "--training.workers", "2"), whole)


def test_another_seed_is_another_training(data, whole, tmp_path):
    train(data, tmp_path / "run", "--seed", "1", "--training.steps", "3")
    assert losses(tmp_path / "run")[0] != losses(whole)[0]


def test_two_processes_compute_what_one_computes(data, tmp_path):
    # Not adam: it blows rounding errors up, where a gradient is zero, to steps of full size.
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


def test_batch_norms_of_two_cpu_processes_end_with_the_mean_of_their_statistics(data, tmp_path):
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
def test_batch_norms_see_the_batch_of_all_gpus(count, device, synchronised):
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Sequential(torch.nn.BatchNorm1d(3)))
    before = network.state_dict()
    synchronise_batch_norms(network, Processes(0, count, torch.device(device)))
    assert isinstance(network[1][0], torch.nn.SyncBatchNorm) == synchronised
    assert network.state_dict().keys() == before.keys()  # one GPU can load what many have trained


def test_batch_norm_over_one_item_is_one_sentence(data, tmp_path):
    options = ["--network.embedding_norm", "batch", "--training.batch_size"]
    with pytest.raises(UserError, match="batch_size: one item per process is too few for the batch norm"):
        train(data, tmp_path / "run", *options, "1")
    train(data, tmp_path / "run", *options, "2")


def test_checkpoint_of_two_processes_is_not_continued_by_one(data, tmp_path, monkeypatch):
    interrupted(monkeypatch, 4, data, tmp_path / "run")
    path = tmp_path / "run/checkpoints/step-00000003.pt"
    state = checkpoints.load(path)
    checkpoints.save(path, {**state, "generators": state["generators"] * 2})
    with pytest.raises(UserError, match="made by 2 processes, now there are 1"):
        train(data, tmp_path / "run")


def test_batch_that_cannot_be_shared_is_one_sentence(data, tmp_path, monkeypatch):
    monkeypatch.setattr("local.train.distributed.start", lambda _: Processes(0, 3, torch.device("cpu")))
    with pytest.raises(UserError, match="batch_size 4 cannot be shared by 3 processes"):
        train(data, tmp_path / "run")


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_stops_with_step_utterances_and_advice(data, whole, tmp_path, monkeypatch, where):
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
    told = str(error.value)
    assert "not finite at step 4" in told and "training.learning_rate" in told and "\n" not in told
    held = told.split("the batch held: ")[1].split(";")[0].split()
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


def test_finished_run_says_so_and_trains_nothing(data, tmp_path, capsys):
    run, steps = tmp_path / "run", ["--training.steps", "3"]
    train(data, run, *steps)
    before = (run / "checkpoints/final.pt").stat().st_mtime_ns
    train(data, run, *steps, "--training.workers", "1", "--training.log_every", "5")
    assert "nothing to train" in capsys.readouterr().out
    assert (run / "checkpoints/final.pt").stat().st_mtime_ns == before and len(log(run)) == 3


@pytest.mark.parametrize("finished", [True, False])
def test_other_config_sets_the_old_checkpoints_aside(data, tmp_path, monkeypatch, capsys, finished):
    run, old = tmp_path / "run", ["--training.learning_rate", "0.5"]
    if finished:
        train(data, run, *old)
    else:
        interrupted(monkeypatch, 4, data, run, *old)
    before = {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    lines = (run / "log.jsonl").read_text()
    train(data, run, "--training.steps", "3")
    assert "config.training.steps: 8 then, 3 now" in capsys.readouterr().out
    (kept,) = run.glob("checkpoints.until-*")
    assert {path.name: path.read_bytes() for path in kept.glob("*.pt")} == before
    assert (kept / "log.jsonl").read_text() == lines and len(log(run)) == 3


@pytest.mark.parametrize("finished", [True, False])
def test_run_of_code_that_lacked_an_option_counts_as_one_with_its_default(
    data, tmp_path, monkeypatch, capsys, finished
):
    run, steps = tmp_path / "run", ["--training.steps", "6"]
    if finished:
        train(data, run, *steps)
    else:
        interrupted(monkeypatch, 4, data, run, *steps)
    for path in (run / "checkpoints").iterdir():
        state = torch.load(path, weights_only=True)
        del state["identity"]["config"]["objective"]["mixtures"]["single_p"], state["identity"]["config"]["augment"]
        torch.save(state, path)
    train(data, run, *steps)
    told = capsys.readouterr().out
    assert ("nothing to train" if finished else "continuing from step") in told and "otherwise" not in told
    train(data, run, *steps, "--objective.mixtures.single_p", "0.3")
    assert "config.objective.mixtures.single_p: 0.2 then, 0.3 now" in capsys.readouterr().out


def test_other_data_are_trained_on_anew(tmp_path, capsys):
    data, other = make_set(tmp_path / "one/train"), make_set(tmp_path / "other/train", count=7)
    train(data, tmp_path / "run", "--training.steps", "3")
    train(other, tmp_path / "run", "--training.steps", "3")
    assert "inputs.utterances" in capsys.readouterr().out
    assert len(list((tmp_path / "run").glob("checkpoints.until-*"))) == 1


def test_data_that_were_moved_are_the_same_data(tmp_path, capsys):
    data = make_set(tmp_path / "one/train")
    train(data, tmp_path / "run", "--training.steps", "3")
    train(make_set(tmp_path / "moved/train"), tmp_path / "run", "--training.steps", "3")
    assert "nothing to train" in capsys.readouterr().out


def test_old_checkpoints_go_and_two_stay(whole):
    names = sorted(path.name for path in (whole / "checkpoints").iterdir())
    assert names == ["final.pt", "step-00000006.pt", "step-00000008.pt"]


def test_log_tells_loss_speed_memory_and_health(whole):
    for number, line in enumerate(log(whole), start=1):
        assert line["step"] == number and all(math.isfinite(value) for value in line.values())
        assert {
            "loss",
            "separation",
            "contrast",
            "learning_rate",
            "data_seconds",
            "compute_seconds",
            "items_per_second",
            "memory_gb",
            "gradient_norm",
            "mi_bound",
            "si_snr",
        } <= line.keys()
        assert line["data_seconds"] > 0 and line["compute_seconds"] > 0 and 0.05 < line["memory_gb"] < 50
        seconds = line["data_seconds"] + line["compute_seconds"]
        assert line["items_per_second"] == pytest.approx(4 / seconds, rel=1e-3)
    assert list((whole / "tensorboard").glob("events.*"))


def test_log_line_is_the_mean_since_the_line_before(data, whole, tmp_path):
    train(data, tmp_path / "run", "--training.log_every", "3")
    each = losses(whole)
    wanted = {3: sum(each[:3]) / 3, 6: sum(each[3:6]) / 3, 8: sum(each[6:]) / 2}
    assert {line["step"]: line["loss"] for line in log(tmp_path / "run")} == pytest.approx(wanted, rel=1e-4)


def test_logged_learning_rate_is_the_schedule(data, tmp_path):
    train(data, tmp_path / "run", "--training.warmup_steps", "4")
    config = TrainingConfig(steps=8, learning_rate=0.01, warmup_steps=4)
    wanted = [learning_rate(step, config) for step in range(8)]
    assert [line["learning_rate"] for line in log(tmp_path / "run")] == pytest.approx(wanted, rel=1e-5)


def test_learning_rate_rises_to_the_peak_and_falls_to_its_final_share():
    config = TrainingConfig(steps=110, learning_rate=2.0, final_rate=0.1, warmup_steps=10)
    rates = {step: learning_rate(step, config) for step in (0, 4, 9, 10, 60, 110)}
    assert rates == pytest.approx({0: 0.2, 4: 1.0, 9: 2.0, 10: 2.0, 60: 1.1, 110: 0.2})
    constant = TrainingConfig(steps=100, learning_rate=2.0, final_rate=1.0)
    assert {learning_rate(step, constant) for step in range(100)} == {2.0}


def states_after_each_step(monkeypatch):
    """The encoder's weights after each step of the next run."""
    states, original = [], Csc.after_step

    def after_step(self):
        original(self)
        states.append(checkpoints.encoder_state(self.encoder))

    monkeypatch.setattr(Csc, "after_step", after_step)
    return states


def test_ema_is_the_decayed_mean_of_the_weights_after_each_step(data, tmp_path, monkeypatch):
    states = states_after_each_step(monkeypatch)
    found = encoder(train(data, tmp_path / "run", "--training.ema", "0.7", "--training.steps", "5"))
    for name, average in states[0].items():
        for state in states[1:]:
            average = 0.7 * average + 0.3 * state[name]
        torch.testing.assert_close(found[name], average)


def test_average_last_is_the_mean_of_the_last_checkpoints(data, tmp_path, monkeypatch):
    states = states_after_each_step(monkeypatch)
    options = ["--training.average_last", "3", "--training.checkpoint_every", "2"]
    found = encoder(train(data, tmp_path / "run", *options))
    for name, value in found.items():
        torch.testing.assert_close(value, (states[3][name] + states[5][name] + states[7][name]) / 3)


def test_final_encoder_is_the_last_step_when_nothing_is_averaged(data, tmp_path, monkeypatch):
    states = states_after_each_step(monkeypatch)
    found = encoder(train(data, tmp_path / "run", "--training.steps", "3"))
    assert all(torch.equal(value, states[-1][name]) for name, value in found.items())


def test_bf16_stays_finite_and_near_fp32(data, whole, tmp_path):
    found = losses(train(data, tmp_path / "run", "--training.precision", "bf16", "--training.steps", "3"))
    assert all(map(math.isfinite, found)) and found[0] != losses(whole)[0]
    assert found[0] == pytest.approx(losses(whole)[0], rel=0.05)


def test_warning_of_the_objective_is_shown_once_while_it_stays(data, tmp_path, monkeypatch, capsys):
    found = []

    def warning(self, means):
        found.append(means)
        return None if len(found) in (1, 5) else "all is lost; train less"

    monkeypatch.setattr(Csc, "warning", warning)
    run = train(data, tmp_path / "run")
    told = [line for line in capsys.readouterr().err.splitlines() if "all is lost" in line]
    assert told == [f"WARNING at step {step}: all is lost; train less" for step in (2, 6)]
    assert [means["loss"] for means in found] == pytest.approx(losses(run), rel=1e-5)
    assert found[0].keys() >= {"loss", "separation", "mi_bound"}


@pytest.mark.parametrize(
    "option, value, words",
    [
        ("precision", "fp16", "give fp32 or bf16"),
        ("optimiser", "adma", "give adam or adam_amsgrad or adamw or sgd"),
        ("steps", "0", "give 1 or more"),
        ("checkpoint_every", "0", "give 1 or more"),
        ("average_last", "0", "give 1 or more"),
        ("workers", "-1", "give 0 or more"),
        ("ema", "1", "less than 1"),
        ("learning_rate", "-1", "give 0 or more"),
        ("steps", "many", "expected a whole number"),
    ],
)
def test_bad_value_is_one_sentence_before_anything_is_made(data, tmp_path, option, value, words):
    with pytest.raises(UserError, match=f"training.{option}.*{words}"):
        train(data, tmp_path / "run", f"--training.{option}={value}")
    assert not (tmp_path / "run").exists()


def test_gradient_is_clipped_to_the_norm(data, tmp_path, monkeypatch):
    norms = []
    original = torch.optim.SGD.step

    def step(self, *_):
        squares = [p.grad.square().sum() for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.stack(squares).sum().sqrt().item())
        return original(self)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    train(data, tmp_path / "run", "--training.optimiser", "sgd", "--training.clip_norm", "0.5", "--training.steps", "3")
    assert norms == pytest.approx([0.5] * 3, rel=1e-3)
    assert all(line["gradient_norm"] > 1 for line in log(tmp_path / "run"))  # as it was before


def test_log_is_one_json_object_a_line(whole):
    assert all(isinstance(json.loads(line), dict) for line in (whole / "log.jsonl").read_text().splitlines())
