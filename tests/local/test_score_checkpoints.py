"""Error rates of the kept encoders of a training."""

import json

import pytest

from cslib import checkpoints
from cslib.config import UserError, parse
from cslib.data.trials import write_trials
from local import plot_training, score_checkpoints
from tests.tiny_run import make_set, train

pytestmark = pytest.mark.slow  # starts processes that import torch

KEEP = ["--training.steps", "5", "--training.checkpoint_every", "2", "--training.keep_every", "2"]


@pytest.fixture
def trials(tmp_path):
    """All pairs of eight recordings of noise, of three speakers in turn."""
    data = make_set(tmp_path / "data/train", seconds=0.6)
    pairs = [(a, b) for a in range(8) for b in range(a)]
    path = data / "trials/clean.txt"
    path.parent.mkdir()
    write_trials(
        path, [f"u{a:02d}" for a, _ in pairs], [f"u{b:02d}" for _, b in pairs], [a % 3 == b % 3 for a, b in pairs]
    )
    return path


def call(exp, trials):
    score_checkpoints.main(
        parse(
            score_checkpoints.Options, ["--exp", str(exp), "--trials", str(trials), "--device", "cpu", "--workers", "0"]
        )
    )
    return json.loads((exp / "error_rates.json").read_text())


def test_every_kept_encoder_is_scored_and_its_rate_is_in_the_learning_curve(trials, tmp_path):
    run = train(trials.parents[1], tmp_path / "run", *KEEP)
    assert list(checkpoints.kept(run / "checkpoints")) == [2, 4]
    rates = call(run, trials)
    assert list(rates) == ["2", "4"] and all(0 <= one["eer clean"] <= 100 for one in rates.values())
    plot_training.main(parse(plot_training.Options, ["--runs", str(run), "--out", str(tmp_path / "curves")]))
    curves = json.loads((tmp_path / "curves.json").read_text())["runs"]["run"]
    found = dict(zip(curves["step"], curves["eer clean"], strict=True))
    assert {step: found[step] for step in (2, 4)} == {
        int(step): pytest.approx(one["eer clean"], rel=1e-4) for step, one in rates.items()
    }
    assert found[1] is None


def test_the_last_kept_encoder_is_the_final_one_and_keeping_changes_no_training(trials, tmp_path):
    data = trials.parents[1]
    kept = train(data, tmp_path / "kept", *KEEP, "--training.steps", "4")
    plain = train(data, tmp_path / "plain", "--training.steps", "4", "--training.checkpoint_every", "2")
    states = [
        checkpoints.load(path)
        for path in (
            checkpoints.kept(kept / "checkpoints")[4],
            kept / "checkpoints/final.pt",
            plain / "checkpoints/final.pt",
        )
    ]
    assert states[0]["identity"] == states[1]["identity"] == states[2]["identity"]
    for name, value in states[2]["encoder"].items():
        assert all((state["encoder"][name] == value).all() for state in states)


def test_a_run_without_kept_encoders_is_refused(trials, tmp_path):
    run = train(trials.parents[1], tmp_path / "run", "--training.steps", "3")
    with pytest.raises(UserError, match="keep_every"):
        call(run, trials)
