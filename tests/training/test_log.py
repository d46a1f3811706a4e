"""What a training logs."""

import json
import math

import pytest

from cslib.objectives.csc.objective import Csc
from tests.tiny_run import interrupted, log, losses, same_training, train


def test_log_has_loss_diagnostics_speed_and_memory(whole):
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


def test_log_is_one_json_object_a_line(whole):
    assert all(isinstance(json.loads(line), dict) for line in (whole / "log.jsonl").read_text().splitlines())


def test_incomplete_line_of_a_killed_run_is_dropped(data, whole, tmp_path, monkeypatch):
    interrupted(monkeypatch, 4, data, tmp_path / "run")
    with open(tmp_path / "run/log.jsonl", "a") as file:
        file.write('{"step": 5, "lo')
    assert same_training(train(data, tmp_path / "run"), whole)


def test_lasting_warning_of_the_objective_is_shown_once(data, tmp_path, monkeypatch, capsys):
    found = []

    def warning(self, means):
        found.append(means)
        return None if len(found) in (1, 5) else "all is lost; train less"

    monkeypatch.setattr(Csc, "warning", warning)
    run = train(data, tmp_path / "run")
    message = [line for line in capsys.readouterr().err.splitlines() if "all is lost" in line]
    assert message == [f"WARNING at step {step}: all is lost; train less" for step in (2, 6)]
    assert [means["loss"] for means in found] == pytest.approx(losses(run), rel=1e-5)
    assert found[0].keys() >= {"loss", "separation", "mi_bound"}
