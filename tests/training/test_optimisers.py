"""The learning rate, the gradient and the precision of a step."""

import math

import pytest
import torch

from cslib.training.config import TrainingConfig
from cslib.training.optimisers import learning_rate
from tests.tiny_run import log, losses, train


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
    assert all(line["gradient_norm"] > 1 for line in log(tmp_path / "run"))  # before clipping


def test_bf16_stays_finite_and_near_fp32(data, whole, tmp_path):
    found = losses(train(data, tmp_path / "run", "--training.precision", "bf16", "--training.steps", "3"))
    assert all(map(math.isfinite, found)) and found[0] != losses(whole)[0]
    assert found[0] == pytest.approx(losses(whole)[0], rel=0.05)


@pytest.mark.parametrize("has_it", [True, False])
def test_auto_precision_is_bf16_where_the_processor_has_it(data, whole, tmp_path, monkeypatch, has_it):
    monkeypatch.setattr("cslib.training.loop.computes_in_bf16", lambda device: has_it)
    found = losses(train(data, tmp_path / "run", "--training.precision", "auto", "--training.steps", "3"))
    assert (found[0] == losses(whole)[0]) is not has_it
