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
    assert lines[3] == (
        f"Likelihood ratio {math.exp(6):.0f}. Only 1 % of different-speaker pairs score above 0.50. "
        "Estimated without labels: indicative only."
    )


def test_the_threshold_decides(folder, capsys):
    calibration(folder, 1.1, 1.2).write(folder / "run/calibration.json")
    text = answer(capsys, "a.wav", "b.wav")
    assert "different speakers: score " in text and "threshold 1.10" in text
    assert "Likelihood ratio 0." in text and ". 1 % of different-speaker pairs score above 1.20." in text
    calibration(folder, -1.1, 1.2).write(folder / "other.json")
    text = answer(capsys, "a.wav", "b.wav", "--calibration", "other.json")
    assert "same speaker: " in text and "Likelihood ratio above 1,000. " in text
    assert "More than 1 % of different-speaker pairs score this high: 1 % score above 1.20." in text


def test_a_network_that_hardly_errs_on_its_clusters_does_not_contradict_itself(folder, capsys):
    calibration(folder, 1.1, -1.1).write(folder / "run/calibration.json")
    text = answer(capsys, "a.wav", "b.wav")
    assert "different speakers: " in text
    assert "score above -1.10, but nearly all same-speaker pairs score above 1.10." in text


@pytest.mark.parametrize(
    "score, threshold, strict, decision, evidence",
    [
        (0.7, 0.4, 0.6, "same speaker", "Only 1 % of different-speaker pairs score above 0.60."),
        (
            0.5,
            0.4,
            0.6,
            "same speaker",
            "More than 1 % of different-speaker pairs score this high: 1 % score above 0.60.",
        ),
        (0.3, 0.4, 0.6, "different speakers", "1 % of different-speaker pairs score above 0.60."),
        (0.7, 0.6, 0.4, "same speaker", "Only 1 % of different-speaker pairs score above 0.40."),
        (
            0.5,
            0.6,
            0.4,
            "different speakers",
            "Only 1 % of different-speaker pairs score above 0.40, but nearly all same-speaker pairs score above 0.60.",
        ),
        (0.3, 0.6, 0.4, "different speakers", "1 % of different-speaker pairs score above 0.40."),
    ],
)
def test_every_order_of_score_and_thresholds_is_worded(score, threshold, strict, decision, evidence):
    made = Calibration("0" * 12, 10.0, -10 * threshold, threshold, 0.1, 0.1, strict, 0.3, 100, 50, 5, 0)
    first, second = verify.verdict(score, made).splitlines()
    assert first == f"{decision}: score {score:.2f}, threshold {threshold:.2f}"
    ratio = verify.likelihood_ratio(10 * (score - threshold))
    assert second == f"Likelihood ratio {ratio}. {evidence} Estimated without labels: indicative only."


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
        (0.0, "1"),
        (math.log(152.3), "152"),
        (math.log(2.54), "2.5"),
        (-math.log(2.5), "0.4"),
        (-math.log(152), "0.0066"),
        (800.0, "above 1,000"),
        (-800.0, "below 0.001"),
    ],
)
def test_likelihood_ratios_as_text(ratio, words):
    assert verify.likelihood_ratio(ratio) == words
