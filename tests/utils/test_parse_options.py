import subprocess
from pathlib import Path

import pytest

UTILS = Path(__file__).parents[2] / "utils"
SCRIPT = """#!/usr/bin/env bash
# A toy.
#
# Stage 1 does nothing.
set -euo pipefail
. {utils}/parse_options.sh
stage=1         # first stage
corpus=mini     # which corpus
train_dir=      # folder to learn from
parse_options "$@"
only_with folder train_dir
existing_folders train_dir
echo "$stage|$corpus|$train_dir"
"""


def run(folder: Path, *options: str) -> subprocess.CompletedProcess:
    script = folder / "toy.sh"
    script.write_text(SCRIPT.format(utils=UTILS))
    return subprocess.run(["bash", script, *options], cwd=folder, capture_output=True, text=True)


def test_values_follow_or_are_joined_by_an_equals_sign(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    done = run(tmp_path, "--stage", "08", "--corpus=folder", "--train-dir", "a b")
    assert done.stdout == f"8|folder|{tmp_path}/a b\n"


def test_defaults_hold(tmp_path: Path) -> None:
    assert run(tmp_path).stdout == "1|mini|\n"


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--speed", "3"], "there is no option --speed; --help lists the options"),
        (["--stage", "two"], "--stage takes a whole number, not 'two'"),
        (["--stage", "-1"], "--stage takes a whole number, not '-1'"),
        (["--stage=99999999999999999999"], "--stage takes a whole number, not '99999999999999999999'"),
        (["--stage"], "--stage needs a value"),
        (["--corpus", "--stage", "1"], "--corpus needs a value"),
        (["mini"], "'mini' is not an option: options look like --corpus folder; --help lists them"),
        (["--corpus", "folder", "--train-dir", "nowhere"], "--train-dir: there is no folder nowhere"),
        (["--train-dir", "/"], "--train-dir belongs to --corpus folder, and the corpus is mini"),
        (["--a[$(touch evil)]", "1"], "there is no option --a[$(touch evil)]; --help lists the options"),
        (["--stage", "a[$(touch evil)]"], "--stage takes a whole number, not 'a[$(touch evil)]'"),
    ],
)
def test_mistake_ends_with_one_sentence(tmp_path: Path, options: list[str], sentence: str) -> None:
    done = run(tmp_path, *options)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {sentence}\n")
    assert not (tmp_path / "evil").exists()


def test_help_is_the_head_of_the_script_and_its_options(tmp_path: Path) -> None:
    done = run(tmp_path, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("A toy.\n\nStage 1 does nothing.\n\nOptions")
    assert [line.split(maxsplit=1) for line in done.stdout.splitlines()[-3:]] == [
        ["--stage", "first stage [1]"],
        ["--corpus", "which corpus [mini]"],
        ["--train-dir", "folder to learn from"],
    ]
