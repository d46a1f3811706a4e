"""utils/same_network.py: when a round can go on with the weights that it follows."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_run import ENVIRONMENT, ROOT


def compare(folder: Path, one: str, other: str) -> subprocess.CompletedProcess:
    (folder / "one.yaml").write_text(one)
    (folder / "other.yaml").write_text(other)
    return subprocess.run(
        [sys.executable, "utils/same_network.py", folder / "one.yaml", folder / "other.yaml"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "other, same",
    [
        ("network: {name: resnet, embedding_size: 16}\ntraining: {steps: 7}", True),
        ("network: {name: resnet, embedding_size: 16, stem_stride: 1}", True),  # the default, in so many words
        ("like: one.yaml\ntraining: {steps: 7}", True),
        ("network: {name: resnet, embedding_size: 32}", False),
        ("network: {name: ecapa, embedding_size: 16}", False),
        ("training: {steps: 7}", False),
    ],
)
def test_kind_and_size_are_compared_and_nothing_else(tmp_path: Path, other: str, same: bool) -> None:
    done = compare(tmp_path, "network: {name: resnet, embedding_size: 16}", other)
    assert (done.returncode, done.stderr) == (0 if same else 1, "")


def test_broken_config_is_one_sentence(tmp_path: Path) -> None:
    done = compare(tmp_path, "network: {name: resnet}", "like: nothing.yaml")
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
