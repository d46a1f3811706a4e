"""utils/check_run.py: what a recipe is told is checked in one process, before anything is made."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cslib.models import mask_gru
from tests.tiny_run import ENVIRONMENT, ROOT

pytestmark = pytest.mark.slow  # starts processes that import torch


def call(*words: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "utils/check_run.py", *map(str, words)],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )


def config(path: Path, network: str, objective: str = "csc", more: str = "") -> Path:
    path.write_text(f"objective: {{name: {objective}}}\nnetwork: {network}\n{more}\n")
    return path


def enhancer(path: Path) -> Path:
    sizes = {"hidden": 4, "layers": 1}
    weights = mask_gru.build(mask_gru.Config(**sizes)).state_dict()
    torch.save({"config": {"network": {"name": "mask_gru", **sizes}}, "encoder": weights}, path)
    return path


def test_answers_are_lines_of_a_name_and_values(tmp_path: Path) -> None:
    enhancer(tmp_path / "a.pt")
    one = config(tmp_path / "one.yaml", "{name: resnet, embedding_size: 16}", "dino", "training: {steps: 7}")
    other = config(tmp_path / "other.yaml", "{name: resnet, embedding_size: 16, stem_stride: 1}", "margin")
    done = call("--enhance", "none=a.pt,b=a.pt", "--here", tmp_path, "--same-network", f"[{one}, {other}]",
                "--", "parse", "local/train.py", "--config", one, "--data", "d", "--exp", "e")  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "steps 7",
        "needs_negatives no",
        "same_network yes",
        f"enhancer none {tmp_path}/a.pt",
        f"enhancer b {tmp_path}/a.pt",
    ]


@pytest.mark.parametrize(
    "other, same",
    [
        ("{name: resnet, embedding_size: 16}", "yes"),
        ("{name: resnet, embedding_size: 16, stem_stride: 1}", "yes"),  # the default, in so many words
        ("{name: resnet, embedding_size: 32}", "no"),
        ("{name: ecapa, embedding_size: 16}", "no"),
    ],
)
def test_networks_are_compared_by_kind_and_size(tmp_path: Path, other: str, same: str) -> None:
    one = config(tmp_path / "one.yaml", "{name: resnet, embedding_size: 16}", more="training: {steps: 3}")
    two = config(tmp_path / "two.yaml", other, more="training: {steps: 7}")
    done = call("--same-network", f"[{one}, {two}]")
    assert (done.returncode, done.stdout) == (0, f"same_network {same}\n")


@pytest.mark.parametrize(
    "broken", ["network: [", "like: nothing.yaml", "objective: {name: csc}\nnetwork: {name: pooling}"]
)
def test_networks_that_cannot_be_compared_are_a_mistake_and_no_answer(tmp_path: Path, broken: str) -> None:
    one = config(tmp_path / "one.yaml", "{name: resnet}")
    (tmp_path / "two.yaml").write_text(broken)
    done = call("--same-network", f"[{one}, {tmp_path / 'two.yaml'}]")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert done.stderr.startswith("error: ")


def test_a_recipe_stops_when_its_networks_cannot_be_compared(tmp_path: Path) -> None:
    """An error must not count as "another network": a training would start from scratch."""
    config(tmp_path / "dino.yaml", "{name: resnet, embedding_size: 16}", "dino")
    (tmp_path / "round.yaml").write_text("network: {name: resnet, embedding_size: sixteen}\nobjective: {name: margin}")
    done = subprocess.run(
        ["bash", ROOT / "egs/voxceleb/run.sh", "--data", "data", "--exp", "exp", "--config", "dino.yaml",
         "--final", "no", "--gpus", "0"],
        cwd=tmp_path, env={**ENVIRONMENT, "VIRTUAL_ENV": sys.prefix}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (1, 1) and "round.yaml" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"dino.yaml", "round.yaml"}


def test_a_mistake_in_a_config_is_told_with_its_name(tmp_path: Path) -> None:
    wrong = config(tmp_path / "wrong.yaml", "{name: resnet}", more="training: {stepz: 3}")
    done = call("--", "parse", "local/train.py", "--config", wrong, "--data", "d", "--exp", "e")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"error: {wrong}: ") and "stepz" in done.stderr


def test_a_script_opens_what_it_is_told(tmp_path: Path) -> None:
    assert call("--", "open", "local/check_space.py", "--space.name", "logmel").returncode == 0
    done = call("--", "open", "local/check_space.py", "--space.checkpoint", tmp_path / "none.pt")
    assert done.returncode == 1 and "none.pt" in done.stderr and done.stdout == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpus_that_are_not_there_are_refused() -> None:
    done = call("--gpus", "2")
    assert done.stderr == "error: --gpus 2: torch can use 0 GPUs here; --gpus 0 uses the CPU\n"
