"""Two recordings to an answer in words."""

import math
from dataclasses import replace

import pytest

from cslib.commands import verify
from cslib.config import UserError
from cslib.evaluation.calibration import Calibration
from cslib.files import digest
from tests.commands.tiny import call, noise, record, save


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "run/checkpoints/final.pt", "resnet")
    for seed, name in enumerate("ab"):
        record(tmp_path / f"{name}.wav", noise(1.5, seed=seed))
    return tmp_path


def calibration(folder, threshold, strict, slope=10.0):
    return Calibration(
        digest(folder / "run/checkpoints/final.pt"),
        slope,
        -slope * threshold,
        threshold,
        0.1,
        0.1,
        strict,
        0.3,
        100,
        50,
        5,
        0,
    )


def answer(capsys, one, other, *more):
    call(verify, one, other, "--checkpoint", "run/checkpoints/final.pt", "--device", "cpu", *more)
    return capsys.readouterr().out


def test_a_recording_is_of_its_own_speaker(folder, capsys):
    calibration(folder, 0.4, 0.5).write(folder / "run/calibration.json")
    lines = answer(capsys, "a.wav", "a.wav").splitlines()
    assert lines[0] == lines[1] == "a.wav: 1.5 s, 1.5 s of speech"
    assert lines[2] == "same speaker: score 1.00, threshold 0.40"
    assert lines[3].startswith(f"{math.exp(6):.0f} times likelier within a cluster") and "above 0.50" in lines[3]


def test_the_threshold_decides(folder, capsys):
    calibration(folder, 1.1, 1.2).write(folder / "run/calibration.json")
    text = answer(capsys, "a.wav", "b.wav")
    assert "different speakers: score " in text and "threshold 1.10" in text and "below 1.20" in text
    assert "times less likely within a cluster" in text
    calibration(folder, -1.1, 1.2).write(folder / "other.json")
    text = answer(capsys, "a.wav", "b.wav", "--calibration", "other.json")
    assert "same speaker: " in text and "likelier" in text and "below 1.20" in text


def test_a_network_that_hardly_errs_on_its_clusters_does_not_contradict_itself(folder, capsys):
    calibration(folder, 1.1, -1.1).write(folder / "run/calibration.json")
    text = answer(capsys, "a.wav", "b.wav")
    assert "different speakers: " in text and "across reach, but nearly no pair within is so low" in text


def test_without_calibration_the_score_is_not_judged(folder, capsys):
    text = answer(capsys, "a.wav", "a.wav")
    assert "score 1.00" in text and "speaker:" not in text and "no threshold" in text
    assert "python local/calibrate.py --checkpoint run/checkpoints/final.pt" in text


def test_calibration_of_another_checkpoint_is_not_used(folder, capsys):
    replace(calibration(folder, 0.4, 0.5), checkpoint="0" * 12).write(folder / "run/calibration.json")
    text = answer(capsys, "a.wav", "a.wav")
    assert "score 1.00" in text and "speaker:" not in text and "made for another checkpoint" in text
    with pytest.raises(UserError, match="made for another checkpoint"):
        answer(capsys, "a.wav", "a.wav", "--calibration", "run/calibration.json")
    (folder / "bytes.json").write_bytes(b"\xff\xfe")
    for file, told in (("none.json", "no such file"), (".", "cannot be read"), ("bytes.json", "not valid JSON")):
        with pytest.raises(UserError, match=told):
            answer(capsys, "a.wav", "a.wav", "--calibration", file)


@pytest.mark.parametrize("device", ["bla", "cuda:99"])
def test_a_device_that_is_not_there_is_one_sentence(folder, capsys, device):
    with pytest.raises(UserError, match=f"--device {device}: there is no such device here"):
        answer(capsys, "a.wav", "b.wav", "--device", device)


def test_without_speech_there_is_no_answer(folder, capsys):
    record(folder / "silent.wav", noise(1.5, level=0))
    with pytest.raises(UserError, match="silent.wav: 1.5 s of silence"):
        answer(capsys, "a.wav", "silent.wav")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "ratio, words",
    [
        (0.0, "1.0 times likelier"),
        (math.log(25), "25 times likelier"),
        (-math.log(2.5), "2.5 times less likely"),
        (800.0, "more than 1,000 times likelier"),
        (-800.0, "more than 1,000 times less likely"),
    ],
)
def test_ratios_in_words(ratio, words):
    assert verify.odds(ratio) == words
