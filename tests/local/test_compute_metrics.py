"""The script as it is called: one line of JSON, or one sentence and status 1."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cslib.config import UserError
from local import compute_metrics

ROOT = Path(compute_metrics.__file__).resolve().parent.parent
TRIALS = "a b target\na c nontarget\nd b nontarget\nd e target\n"
SCORES = "d e 3\na c 2\na b 2\nd b 0\n"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "t.txt").write_text(TRIALS)
    (tmp_path / "s.txt").write_text(SCORES)
    return tmp_path / "t.txt", tmp_path / "s.txt"


def called(trials, scores):
    command = [sys.executable, "local/compute_metrics.py", "--trials", trials, "--scores", scores]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


def test_prints_exactly_one_line_of_json(files):
    done = called(*files)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout) == {"eer": 25.0, "min_dcf_0.01": 0.5, "targets": 2, "nontargets": 2}


def test_ends_with_one_sentence_and_status_1(files):
    files[1].write_text(SCORES + "a b 2\n")
    done = called(*files)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_voxceleb_notation_gives_the_same(tmp_path, files, capsys):
    files[0].write_text("1 x/a.wav x/b.wav\n0 x/a.wav x/c.wav\n")
    files[1].write_text("x-a x-c 0\nx-a x-b 1\n")
    compute_metrics.main(compute_metrics.Options(*files))
    assert json.loads(capsys.readouterr().out)["eer"] == 0.0


def test_one_class_alone_is_refused(files):
    files[0].write_text("a b target\n")
    files[1].write_text("a b 1\n")
    with pytest.raises(UserError, match="1 targets of 1"):
        compute_metrics.main(compute_metrics.Options(*files))
