"""The interface of an objective: the example in its docstring trains, and only objectives are found by name."""

import importlib.util
import inspect
import re
import subprocess
import sys
import textwrap
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import torch

from cslib import config
from cslib.config import UserError, _field_comments, find, known_names
from cslib.objectives import base
from cslib.objectives.base import Objective, objective_named
from cslib.training import options
from tests.tiny_run import ENVIRONMENT, ROOT, encoder, log, make_set, same_training, train

NETWORK = """
network: {name: resnet, num_mels: 24, channels: [4, 6], blocks: [1, 1], stem_stride: 2, embedding_size: 8}
training: {steps: 6, batch_size: 4, learning_rate: 0.01, checkpoint_every: 2, log_every: 1, workers: 0}
"""


def example() -> str:
    """The module in the docstring of cslib/objectives/base.py: all that is indented after "the core of SimCLR"."""
    return textwrap.dedent(inspect.getdoc(base).partition("the core of SimCLR:\n")[2])


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The example as an objective of the library, by the name instances."""
    path = tmp_path / "instances.py"
    path.write_text(example())
    specification = importlib.util.spec_from_file_location("instances", path)
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "instances", module)
    specification.loader.exec_module(module)

    def names(package):
        return known_names(package) | ({"instances": "instances"} if package == "objectives" else {})

    for user in (config, options):
        monkeypatch.setattr(user, "known_names", names)
    return module


def test_example_is_small_and_complete():
    lines = [line for line in example().splitlines() if line.strip()]
    assert len(lines) < 45
    for needed in ("^class Config", r"\(Objective\):", "^def build"):
        assert re.search(needed, example(), re.MULTILINE), needed


def test_the_example_trains_from_a_config_and_resumes(added, tmp_path):
    data = make_set(tmp_path / "train", seconds=0.6)
    data.with_name("config.yaml").write_text("objective: {name: instances, seconds: 0.4}\n" + NETWORK)
    whole = train(data, tmp_path / "whole")
    lines = log(whole)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(line["loss"] > 0 and 0 <= line["accuracy"] <= 1 for line in lines)
    assert all(value.isfinite().all() for value in encoder(whole).values() if value.is_floating_point())
    # A run that is stopped: its checkpoints and log up to step 4 are all that is left.
    part = train(data, tmp_path / "part")
    for name in ("final.pt", "step-00000006.pt"):
        (part / "checkpoints" / name).unlink()
    assert same_training(train(data, tmp_path / "part"), whole)


def test_the_example_learns(added, tmp_path):
    data = make_set(tmp_path / "train", seconds=0.6)
    data.with_name("config.yaml").write_text("objective: {name: instances, seconds: 0.4}\n" + NETWORK)
    lines = log(train(data, tmp_path / "run", "--training.steps", "60"))
    first, last = (sum(line["loss"] for line in part) for part in (lines[:10], lines[-10:]))
    assert last < 0.9 * first


@pytest.mark.parametrize("name", ["ccr", "csc", "dino", "dino_csc", "margin", "moco", "simclr", "vicreg"])
def test_every_objective_is_found_with_its_class(name):
    kind = objective_named(name)
    assert issubclass(kind, Objective) and kind.__module__ == f"cslib.objectives.{name}.objective"
    assert kind.forward is not Objective.forward and kind.embedding_network is not Objective.embedding_network


@pytest.mark.parametrize("name", ["ccr", "csc", "dino", "dino_csc", "margin", "moco", "simclr", "vicreg"])
def test_every_option_of_an_objective_has_a_help_text(name):
    def without_help(kind):
        texts = {
            key: text for base in kind.__mro__ if is_dataclass(base) for key, text in _field_comments(base).items()
        }
        inner = [field.default_factory for field in fields(kind) if is_dataclass(field.default_factory)]
        return [field.name for field in fields(kind) if not texts[field.name]] + sum(map(without_help, inner), [])

    assert without_help(find("objectives", name).Config) == []


def test_nothing_but_objectives_is_found():
    assert sorted(known_names("objectives")) == ["ccr", "csc", "dino", "dino_csc", "margin", "moco", "simclr", "vicreg"]
    for name in ("angular_margin", "base", "retrieval", "csc.loss", "loss", "head"):
        with pytest.raises(UserError, match="cslib/objectives: ccr, csc, dino, dino_csc, margin, moco, simclr, vicreg"):
            find("objectives", name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective, network, sentence",
    [
        (
            "angular",
            "resnet",
            "'angular' is not one of cslib/objectives: ccr, csc, dino, dino_csc, margin, moco, simclr, vicreg",
        ),
        ("angular_margin", "resnet", "'angular_margin' is not one of cslib/objectives: ccr, csc"),
        ("retrieval", "resnet", "'retrieval' is not one of cslib/objectives: ccr, csc"),
        ("dino", "pooling", "'pooling' is not one of cslib/models: "),
        ("dino", "layers", "'layers' is not one of cslib/models: "),
    ],
)
def test_a_helper_module_in_a_config_is_one_sentence_of_train_py(tmp_path: Path, objective, network, sentence):
    (tmp_path / "config.yaml").write_text(f"objective: {{name: {objective}}}\nnetwork: {{name: {network}}}\n")
    done = subprocess.run(
        [sys.executable, ROOT / "local/train.py", "--config", "config.yaml", "--data", "data", "--exp", "exp"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and sentence in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "exp").exists()


def test_processes_that_train_together_are_counted(monkeypatch):
    assert base.num_processes() == 1
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    assert base.num_processes() == 3
