"""egs/voxceleb/ablations.sh: its options, its tables and arms, and runs of two arms on noise."""

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import yaml

from cslib.config import find, parse, to_dict
from cslib.data.banks import Banks, BankWriter
from cslib.data.embeddings import EmbeddingWriter
from cslib.data.trials import write_trials
from cslib.data.utterances import Utterances
from cslib.datasets.augmentation import AugmentConfig
from cslib.objectives.base import Task
from local import cluster_embeddings, train
from tests.recipes.refusals import assert_refused
from tests.tiny_run import ENVIRONMENT, make_set

pytestmark = pytest.mark.slow  # starts processes that import torch

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "egs/voxceleb/ablations.sh"
CONF = ROOT / "egs/voxceleb/conf/mini"
ARMS = sorted((CONF / "ablations").rglob("*.yaml"))
BASES = {"csc": "csc", "dino": "dino", "positives": "dino", "noisy_labels": "round"}
ROUND = """network: {name: resnet, num_mels: 20, channels: [4, 4, 8, 8], blocks: [1, 1, 1, 1], stem_stride: 4,
          embedding_size: 16}
training: {steps: 3, batch_size: 8, warmup_steps: 1, checkpoint_every: 2, workers: 0}
"""
STEPS = "training: {steps: 4, batch_size: 4, log_every: 1, checkpoint_every: 2}"


def run(folder: Path, *options: str) -> subprocess.CompletedProcess:
    """ablations.sh called from `folder`."""
    return subprocess.run(
        ["bash", SCRIPT, "--data", "data", "--exp", "exp", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**ENVIRONMENT, "VIRTUAL_ENV": sys.prefix},
    )


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--nj", "3"], "there is no option --nj"),
        (["--seeds", "1 two"], "--seeds takes whole numbers, not '1 two'"),
        (["--jobs", "0"], "--jobs is at least 1"),
        (["--arms", " "], "--arms names at least one arm"),
        (["--arms", "attention guess"], "there is no config guess.yaml; the arms in "),
        (["--config", "guess.yaml"], "guess.yaml; the arms in "),
        (["--table", "guess"], "--table is starts, csc, dino, positives, clusters or noisy_labels, not 'guess'"),
        (["--from", "exp"], "--from is for the tables positives"),
        (["--table", "starts", "--config", "a.yaml"], "--config is not for the table starts"),
        ([], "data/train: run 'bash egs/voxceleb/run.sh --stop-stage 2' first"),
    ],
)
def test_mistake_ends_with_one_sentence_and_nothing_is_made(tmp_path: Path, options: list[str], sentence: str) -> None:
    done = run(tmp_path, *options)
    assert_refused(done, sentence, tmp_path)


def test_help_lists_every_arm_and_every_option(tmp_path: Path) -> None:
    done = run(tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f" {arm.stem}" in done.stdout for arm in ARMS)
    for option in ("table", "seeds", "arms", "from", "data", "exp", "config", "jobs", "device"):
        assert f"\n  --{option} " in done.stdout


def leaves(tree: dict, name: str = "") -> dict:
    """{"a.b.c": value} of nested dictionaries."""
    found = {}
    for key, value in tree.items():
        found |= leaves(value, f"{name}{key}.") if isinstance(value, dict) else {f"{name}{key}": value}
    return found


@pytest.fixture(scope="module")
def utterances(tmp_path_factory: pytest.TempPathFactory) -> Utterances:
    return Utterances.open(make_set(tmp_path_factory.mktemp("arms") / "train"))


def called(arm: Path) -> str:
    return f"{arm.parent.name}/{arm.stem}"


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm.parent.name in BASES], ids=called)
def test_arm_changes_what_it_says_and_nothing_else(arm: Path, utterances: Utterances) -> None:
    words = ["train.py", "--config", str(CONF / f"{BASES[arm.parent.name]}.yaml"), "--data", "d", "--exp", "e"]
    stated = yaml.safe_load(arm.read_text())
    objective = (stated.get("objective") or {}).get("name")  # another one has options of its own
    with patch.object(sys, "argv", [*words, *(["--objective.name", objective] if objective else [])]):
        base = leaves(vars_of(parse(train.options_of_command())))
    with patch.object(sys, "argv", [*words, "--config", str(arm)]):
        options = parse(train.options_of_command())
    assert leaves(vars_of(options)) == base | leaves(stated)

    labelled = arm.parent.name == "noisy_labels" or called(arm) in ("csc/supervised", "positives/cluster")
    labels = torch.arange(len(utterances)).numpy() // 2 if labelled else None
    task = Task(utterances, Banks(), AugmentConfig(), options.training.batch_size, 0, 10, options.network, labels)
    find("objectives", options.objective.name).build(options.objective, task)


def test_starts_have_the_configs_of_their_methods_and_one_budget() -> None:
    arms = [arm for arm in ARMS if arm.parent.name == "starts"]
    assert {arm.stem for arm in arms} == {"csc", "dino", "moco", "simclr", "vicreg"}
    budgets = set()
    for arm in arms:
        found = []
        for path in (arm, CONF / f"{arm.stem}.yaml"):
            words = ["--config", str(path), "--data", "d", "--exp", "e"]
            found.append(parse(train.options_of_command(words), words))
        assert vars_of(found[0]) == vars_of(found[1]) and found[0].objective.name == arm.stem
        budgets.add((found[0].training.steps, found[0].training.batch_size))
    assert len(budgets) == 1


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm.parent.name == "clusters"], ids=called)
def test_arm_of_clustering_is_its_config(arm: Path) -> None:
    words = ["--embeddings", "e.scp", "--out", "labels.tsv"]
    base, options = (
        vars_of(parse(cluster_embeddings.Options, [*words, *more])) for more in ([], ["--config", str(arm)])
    )
    assert leaves(options) == leaves(base) | leaves(yaml.safe_load(arm.read_text()))


def vars_of(options: object) -> dict:
    return json.loads(json.dumps(to_dict(options)))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with data/ of noise, and a config of a few steps."""
    for name in ("train", "test", "test_adverse"):
        make_set(tmp_path / "data" / name)
    for name, trials in (("test", "clean"), ("test_adverse", "adverse")):
        pairs = [(a, b) for a in range(8) for b in range(a)]
        write_trials(
            tmp_path / "data" / name / "trials" / f"{trials}.txt",
            [f"u{a:02d}" for a, _ in pairs],
            [f"u{b:02d}" for _, b in pairs],
            np.array([a % 3 == b % 3 for a, b in pairs]),
        )
    with BankWriter(tmp_path / "data/noise/noise", np.int16) as writer:
        writer.add(np.random.default_rng(0).normal(0, 1000, 32000).astype(np.int16))
    config = (tmp_path / "data/config.yaml").read_text().split("training:")[0] + STEPS
    (tmp_path / "tiny.yaml").write_text(config)
    return tmp_path


@pytest.mark.end_to_end
def test_labels_of_a_finished_run_are_clustered_in_every_way(corpus: Path) -> None:
    ids, rng = [f"u{n:02d}" for n in range(8)], np.random.default_rng(0)
    with EmbeddingWriter(corpus / "run_1/embeddings/train") as writer:
        writer.add(ids, (np.eye(3)[np.arange(8) % 3] + 0.1 * rng.standard_normal((8, 3))).astype(np.float32))
    (corpus / "round.yaml").write_text("objective: {name: margin, crops: {seconds: 0.5}}\n" + ROUND)
    options = ["--seeds", "1", "--config", "round.yaml", "--jobs", "1", "--from", "run_SEED"]
    for table, arm in (("clusters", "threshold"), ("noisy_labels", "posterior")):
        done = run(corpus, "--table", table, "--arms", arm, "--exp", table, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        text = (corpus / table / "table.md").read_text()
        assert all(column in text for column in ("| clusters |", "| NMI |", "| accuracy on its labels |"))
        assert "SI-SNR" not in text
    fails = run(corpus, "--table", "clusters", "--from", "nowhere_SEED", "--seeds", "1")
    assert "nowhere_1 has no embeddings/train.scp" in fails.stderr and fails.returncode == 1


@pytest.mark.end_to_end
def test_arms_end_in_one_table_and_what_is_done_stays(corpus: Path) -> None:
    options = ["--arms", "attention supervised", "--seeds", "1", "--config", "tiny.yaml", "--jobs", "2"]
    done = run(corpus, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    table = (corpus / "exp/table.md").read_text()
    assert table in done.stdout
    assert "\n| attention |" in table and "\n| **supervised: with true speaker labels** |" in table
    assert "clean" in table and "adverse" in table
    opened = [
        ("speakers.tsv" in (corpus / f"exp/{arm}_1.log").read_text().split("stage 2")[0])
        for arm in ("attention", "supervised")
    ]
    assert opened == [False, True]  # the one arm that trains with labels

    models = {path: os.stat(path).st_mtime_ns for path in corpus.rglob("*.pt")}
    again = run(corpus, *options)
    assert again.returncode == 0 and (corpus / "exp/table.md").read_text() == table
    assert models == {path: os.stat(path).st_mtime_ns for path in corpus.rglob("*.pt")}
    assert (corpus / "exp/attention_1.log").read_text().count("done already") == 3

    # A run that fails says why.
    (corpus / "tiny.yaml").write_text((corpus / "tiny.yaml").read_text().replace("batch_size: 4", "batch_size: 0"))
    failed = run(corpus, *options)
    assert failed.returncode == 1
    assert "attention_1 failed" in failed.stderr and "training.batch_size" in failed.stderr
