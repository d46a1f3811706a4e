"""Embeddings and pseudo-labels of the training set to calibration.json."""

import json

import numpy as np
import pytest

from cslib.config import UserError, parse
from cslib.data.embeddings import EmbeddingWriter
from cslib.data.labels import write_labels
from cslib.data.trials import read_trials, write_trials
from cslib.evaluation.calibration import Uncalibrated, read_calibration
from cslib.evaluation.score_files import write_scores
from cslib.files import digest
from local import calibrate, check_calibration
from tests.commands.tiny import save
from tests.evaluation.test_calibration import clustered
from tests.tiny_run import make_set


@pytest.fixture
def folder(tmp_path):
    """exp/checkpoints/final.pt, exp/embeddings/train.scp and labels.tsv of 200 recordings in 20 clusters."""
    save(tmp_path / "exp/checkpoints/final.pt", "resnet")
    embeddings, labels = clustered()
    ids = [f"u{n:03d}" for n in range(len(labels))]
    with EmbeddingWriter(tmp_path / "exp/embeddings/train") as writer:
        writer.add(ids, embeddings)
    # In another order than the embeddings, with a recording that has none.
    write_labels(tmp_path / "labels.tsv", [*ids[::-1], "v"], [*labels[::-1], 3])
    return tmp_path


def run(folder, *more):
    words = [
        "--checkpoint",
        folder / "exp/checkpoints/final.pt",
        "--embeddings",
        folder / "exp/embeddings/train.scp",
        "--labels",
        folder / "labels.tsv",
        "--pairs",
        "5000",
        *more,
    ]
    calibrate.main(parse(calibrate.Options, [str(word) for word in words]))
    return folder / "exp/calibration.json"


def test_calibration_lies_beside_the_checkpoint(folder, capsys):
    path = run(folder)
    found = read_calibration(path, digest(folder / "exp/checkpoints/final.pt"))
    assert (found.recordings, found.clusters, found.pairs) == (200, 20, 5000)
    assert found.missed < 0.1 and found.false_alarms < 0.1  # the clusters are well apart
    told = capsys.readouterr()
    assert f"threshold {found.threshold:.3f}" in told.out and not told.err
    assert "200 recordings in 20 clusters, with 900 distinct same-cluster and 19,000 different-cluster" in told.out
    assert " within" not in told.out and " across" not in told.out
    assert json.loads(path.read_text())["scoring"] == "cosine"


def test_calibration_may_be_of_other_recordings_and_lie_elsewhere(folder):
    run(folder, "--out", folder / "theirs/calibration.json")
    found = read_calibration(folder / "theirs/calibration.json", digest(folder / "exp/checkpoints/final.pt"))
    assert found.recordings == 200
    assert not (folder / "exp/calibration.json").exists()


def test_few_different_pairs_are_told(folder, capsys):
    """However many are drawn: nine recordings of each of three clusters make 108 pairs within and 243 across."""
    write_labels(
        folder / "labels.tsv",
        [f"u{n:03d}" for n in range(200) if n % 10 and n < 30],
        [n // 10 for n in range(30) if n % 10],
    )
    embeddings, _ = clustered()
    with EmbeddingWriter(folder / "exp/embeddings/train") as writer:
        writer.add([f"u{n:03d}" for n in range(30)], embeddings[:30])
    run(folder)
    told = capsys.readouterr()
    assert "27 recordings in 3 clusters, with 108 distinct same-cluster and 243 different-cluster pairs" in told.out
    assert "fewer than 300 distinct pairs of a kind" in told.err


def test_the_same_command_gives_the_same_file(folder):
    first = run(folder).read_bytes()
    assert run(folder).read_bytes() == first and run(folder, "--seed", "1").read_bytes() != first


def test_labels_that_say_nothing_do_not_stop_a_recipe(folder, capsys):
    write_labels(folder / "labels.tsv", [f"u{n:03d}" for n in range(200)], range(200))
    path = run(folder)
    assert "no threshold; 200 labelled recordings in 200 clusters do not give both" in capsys.readouterr().out
    with pytest.raises(Uncalibrated, match="do not give both same-cluster and different-cluster pairs"):
        read_calibration(path, digest(folder / "exp/checkpoints/final.pt"))


def test_mistakes_are_one_sentence(folder):
    write_labels(folder / "other.tsv", ["x", "y"], [0, 1])
    for more, told in (
        (["--labels", folder / "other.tsv"], "none of the 200 utterances"),
        (["--checkpoint", folder / "none.pt"], "none.pt: not found"),
        (["--pairs", "5"], "--pairs is 5; it must be at least 100"),
    ):
        with pytest.raises(UserError, match=told):
            run(folder, *more)
    assert not (folder / "exp/calibration.json").exists()
    with EmbeddingWriter(folder / "exp/embeddings/train") as writer:
        writer.add(["u000", "u001", "u010", "u011"], np.zeros((4, 3), np.float32))
    assert "uncalibrated" in json.loads(run(folder).read_text())


def test_the_threshold_is_checked_against_trials_that_are_known(folder, capsys):
    path = run(folder)
    values = json.loads(path.read_text()) | {"threshold": 0.5, "missed": 0.02, "false_alarms": 0.03}
    path.write_text(json.dumps(values))
    names = [f"u{n}" for n in range(10)]
    write_trials(folder / "trials.txt", names, ["v"] * 10, np.arange(10) < 4)
    scores = np.array([0.9, 0.8, 0.6, 0.4, 0.7, 0.3, 0.2, 0.1, 0.0, -0.1])  # one of 4 missed, one of 6 taken
    write_scores(folder / "scores.txt", read_trials(folder / "trials.txt"), scores)
    check_calibration.main(check_calibration.Options(path, folder / "scores.txt", folder / "trials.txt"))
    told = capsys.readouterr().out
    assert "misses 25.00 % (expected 2.00 %), false alarms 16.67 % (expected 3.00 %); EER " in told


def test_what_the_recordings_are_like_is_measured_when_they_are_given(folder, capsys):
    assert read_calibration(run(folder), digest(folder / "exp/checkpoints/final.pt")).signs is None
    data = make_set(folder / "data", count=24, seconds=1.2)
    path = run(folder, "--data", data, "--measured", "20")
    found = read_calibration(path, digest(folder / "exp/checkpoints/final.pt"))
    assert found.signs["recordings"] == 20 and found.signs["speech_seconds"][2] == pytest.approx(1.27, abs=0.05)
    assert "20 recordings measured" in capsys.readouterr().out
    first = path.read_bytes()
    assert run(folder, "--data", data, "--measured", "20").read_bytes() == first
    with pytest.raises(UserError, match="--measured is 5; it must be at least 20"):
        run(folder, "--data", data, "--measured", "5")


def test_recordings_without_speech_do_not_stop_a_recipe(folder, capsys):
    data = make_set(folder / "data", count=3, seconds=0.6)
    path = run(folder, "--data", data)
    assert read_calibration(path, digest(folder / "exp/checkpoints/final.pt")).signs is None
    assert "none of 3 recordings has a second of speech" in capsys.readouterr().err


def test_a_bound_below_the_threshold_is_not_printed(folder, capsys):
    embeddings, _ = clustered(spread=0.02)
    with EmbeddingWriter(folder / "exp/embeddings/train") as writer:
        writer.add([f"u{n:03d}" for n in range(200)], embeddings)
    found = read_calibration(run(folder), digest(folder / "exp/checkpoints/final.pt"))
    assert found.threshold_at_1_percent < found.threshold
    assert "1 % of different-cluster pairs score above" not in capsys.readouterr().out
