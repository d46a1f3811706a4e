"""Which weights final.pt holds."""

import torch

from cslib import checkpoints
from cslib.objectives.csc.objective import Csc
from tests.tiny_run import encoder, train


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
