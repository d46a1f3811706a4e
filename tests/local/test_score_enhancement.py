"""The script as it is called: one line of JSON and a table, or one sentence and status 1."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cslib.config import UserError
from cslib.evaluation.speech_quality import HEADLINE, MEASURES
from local import score_enhancement
from local.score_enhancement import Options
from tests.evaluation.speech import RATE, needs_pesq, noisy, talk

ROOT = Path(score_enhancement.__file__).resolve().parent.parent
pytestmark = needs_pesq


@pytest.fixture
def folders(tmp_path):
    clean = talk()
    for folder, samples in (("clean", clean), ("enhanced", noisy(clean))):
        (tmp_path / folder).mkdir()
        soundfile.write(tmp_path / folder / "a.wav", samples, RATE)
        soundfile.write(tmp_path / folder / "b.wav", samples if folder == "clean" else np.zeros(len(clean)), RATE)
    return tmp_path


def called(*words):
    command = [sys.executable, "local/score_enhancement.py", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


@pytest.mark.slow
def test_prints_exactly_one_line_of_json_names_failures_and_writes_the_table(folders):
    table = folders / "new" / "table.tsv"
    done = called("--clean", folders / "clean", "--enhanced", folders / "enhanced", "--out", table, "--nj", 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    printed = json.loads(done.stdout)
    assert (printed["files"], printed["failed"]) == (2, 1)
    assert set(printed) == {*MEASURES, *(f"{name}_ci95" for name in HEADLINE), "files", "failed"}
    assert set(HEADLINE) == {"pesq", "stoi", "estoi", "csig", "cbak", "covl", "ssnr", "si_sdr"}
    assert done.stderr.splitlines() == ["b: failed (the enhanced recording is silent)"]
    lines = table.read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["file", "a", "b"]
    assert printed["pesq"] == pytest.approx(float(lines[1].split("\t")[1]), abs=1e-6)
    assert [path.name for path in table.parent.iterdir()] == ["table.tsv"]


def test_means_unlike_those_that_others_found_are_told(folders, capsys):
    options = {"clean": folders / "clean", "enhanced": folders / "enhanced", "nj": 1}
    score_enhancement.main(Options(**options))
    means = json.loads(capsys.readouterr().out)
    near = f"stoi={means['stoi'] + 0.005:.4f},pesq={means['pesq']:.2f}"
    score_enhancement.main(Options(**options, expected=near))
    assert "warning" not in capsys.readouterr().err
    score_enhancement.main(Options(**options, expected=f"stoi=0.5,pesq={means['pesq']:.2f}"))
    told = capsys.readouterr().err
    assert f"warning: {folders / 'enhanced'}: stoi is {means['stoi']:.3f}, but 0.5 was published" in told
    for wrong, told in (("pesq", "must be written as pesq=1.97"), ("loud=3", "no measure loud")):
        with pytest.raises(UserError, match=told):
            score_enhancement.main(Options(**options, expected=wrong))


def test_ends_with_one_sentence_and_status_1_and_leaves_an_old_table(folders):
    (folders / "enhanced" / "a.wav").unlink()
    (folders / "table.tsv").write_text("old")
    done = called("--clean", folders / "clean", "--enhanced", folders / "enhanced", "--out", folders / "table.tsv")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert (folders / "table.tsv").read_text() == "old"


def test_table_is_written_even_when_all_files_failed(folders):
    (folders / "clean" / "a.wav").unlink()
    (folders / "enhanced" / "a.wav").unlink()
    with pytest.raises(UserError, match="all 1 recordings lack"):
        score_enhancement.main(Options(folders / "clean", folders / "enhanced", folders / "table.tsv", nj=1))
    assert "the enhanced recording is silent" in (folders / "table.tsv").read_text()


def test_bad_number_of_processes_is_refused(folders):
    with pytest.raises(UserError, match="--nj is 0; it must be at least 1"):
        score_enhancement.main(Options(folders / "clean", folders / "enhanced", nj=0))
