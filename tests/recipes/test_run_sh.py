"""What egs/voxceleb/run.sh says to what it is told, before it makes anything."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cslib.config import parse
from local import cluster_embeddings, train
from tests.recipes.refusals import assert_refused

pytestmark = pytest.mark.slow  # starts processes that import torch

ROOT = Path(__file__).parents[2]
RUN = ROOT / "egs" / "voxceleb" / "run.sh"


def run(folder: Path, *options: str) -> subprocess.CompletedProcess:
    """run.sh called from `folder`, where it would put data and exp."""
    return subprocess.run(
        ["bash", RUN, "--data", "data", "--exp", "exp", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "VIRTUAL_ENV": sys.prefix},
    )


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--sped", "3"], "there is no option --sped"),
        (["--stage", "three"], "--stage takes a whole number, not 'three'"),
        (["--stage", "9"], "--stage 9 --stop-stage 8: the stages are 1 to 8"),
        (["--stage", "0"], "--stage 0 --stop-stage 8: the stages are 1 to 8"),
        (["--final", "maybe"], "--final is yes or no, not 'maybe'"),
        (["--method", "floor", "--rounds", "0", "--final", "no"], "nothing would be trained"),
        (["--stage", "5", "--stop-stage", "4"], "the first comes before the last"),
        (["--rounds", "many"], "--rounds takes a whole number"),
        (["--corpus", "timit"], "--corpus is mini, folder or voxceleb, not 'timit'"),
        (["--corpus", "folder"], "--train-dir is missing: --corpus folder requires it"),
        (["--corpus", "folder", "--train-dir", ".", "--test-dir", "none"], "--test-dir: there is no folder none"),
        (["--corpus", "voxceleb", "--voxceleb1", "."], "--voxceleb2 is missing"),
        (["--train-dir", "."], "--train-dir belongs to --corpus folder, and the corpus is mini"),
        (["--pieces", "yes"], "--pieces belongs to --corpus folder, and the corpus is mini"),
        (["--corpus", "folder", "--train-dir", ".", "--pieces", "few"], "--pieces is yes or no, not 'few'"),
        (["--corpus", "folder", "--train-dir", ".", "--plda", "yes"], "score test trials: give --test-dir"),
        (["--corpus", "folder", "--train-dir", ".", "--enhance", "none.pt"], "score test trials: give --test-dir"),
        (["--method", "guess"], "conf/mini/guess.yaml; in egs/voxceleb/conf/mini there are: csc.yaml"),
        (["--config", "guess.yaml"], "guess.yaml; in "),
        (["--enhance", "none.pt"], "--enhance: there is no file none.pt"),
        (["--enhance", str(RUN)], "run.sh: damaged, or not a checkpoint of this project"),
        (["--nj", "0"], "--nj is at least 1"),
        (["--exp", f"{RUN}/exp", "--stage", "3", "--stop-stage", "3"], "run.sh/exp cannot be written"),
        (["--data", f"{RUN}/a/b", "--stage", "3", "--stop-stage", "3"], "--data: the folder "),
        (["--enhance", f"a={RUN},b=none.pt"], "--enhance: there is no file none.pt"),
        (["--enhance", f"{RUN},{RUN}"], "--enhance: two are called enhanced; name them"),
        (["--cluster-config", "none.yaml"], "none.yaml"),
        (["--cluster-config", str(ROOT / "egs/voxceleb/conf/mini/round.yaml")], "conf/mini/round.yaml: "),
    ],
)
def test_mistake_ends_with_one_sentence_and_nothing_is_made(tmp_path: Path, options: list[str], sentence: str) -> None:
    done = run(tmp_path, *options)
    assert_refused(done, sentence, tmp_path)


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ("training: {stepz: 3}", "stepz"),
        ("training: {steps: soon}", "steps"),
        ("objective: {name: guess}", "guess"),
        ("network: [", "not valid YAML"),
    ],
)
def test_mistake_in_a_config_is_found_before_anything_is_made(tmp_path: Path, wrong: str, sentence: str) -> None:
    lines = {"objective": "objective: {name: csc}", "network": "network: {name: galr}"}
    config = tmp_path / "wrong.yaml"
    config.write_text("\n".join({**lines, wrong.partition(":")[0]: wrong}.values()) + "\n")
    done = run(tmp_path, "--config", "wrong.yaml", "--rounds", "0", "--final", "no")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert str(config) in done.stderr and sentence in done.stderr
    assert list(tmp_path.iterdir()) == [config]


CONFIGS = sorted(path for path in RUN.parent.glob("conf/**/*.yaml") if "ablations" not in path.parts)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_config_is_one_that_its_script_takes(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if config.name.startswith("clusters"):
        words = ["--config", str(config), "--embeddings", "e", "--out", "o"]
        options = parse(cluster_embeddings.Options, words)
        assert options.clusters > 0 or options.choose == "density"
        return
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", str(config), "--data", "d", "--exp", "e"])
    assert parse(train.options_of_command()).training.steps > 0


def test_help_lists_every_stage_and_every_option(tmp_path: Path) -> None:
    done = run(tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    stages = ["data", "noise", "train", "extract", "rounds", "final", "score", "results"]
    for number, stage in enumerate(stages, start=1):
        assert f"\n  {number} {stage} " in done.stdout
    options = [
        "stage",
        "stop-stage",
        "corpus",
        "method",
        "config",
        "rounds",
        "final",
        "data",
        "exp",
        "seed",
        "nj",
        "gpus",
        "train-dir",
        "test-dir",
        "pieces",
        "noise-dir",
        "rir-dir",
        "voxceleb1",
        "voxceleb2",
        "musan",
        "rirs",
        "trial-lists",
        "enhance",
        "round-config",
        "cluster-config",
        "plda",
    ]
    assert all(f"\n  --{option} " in done.stdout for option in options)
    assert list(tmp_path.iterdir()) == []
