"""Two recordings to an answer in words."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.signal import resample_poly

from cslib.commands import verify
from cslib.config import UserError
from cslib.evaluation.calibration import Calibration
from cslib.evaluation.signs import LEVELS
from cslib.files import digest
from cslib.inference import shipped
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
    first, *lines = answer(capsys, "a.wav", "a.wav").splitlines()
    assert first == "Same speaker, probably. Score 1.00, above the threshold 0.40."
    shown = dict(line.strip().split("  ", 1) for line in lines)
    ratio = f"{math.exp(6):.0f}"
    assert {name: text.strip() for name, text in shown.items()} == {
        "likelihood ratio": f"{ratio}: such a score is {ratio} times as frequent for one speaker as for two",
        "error rates": (
            "10 % of same-speaker pairs score below the threshold, 10 % of different-speaker pairs above; true rates "
            "are higher"
        ),
        "stricter bound": "1 % of different-speaker pairs score above 0.50",
        "enrol": "a.wav: 1.5 s, 1.5 s of speech",
        "test": "a.wav: 1.5 s, 1.5 s of speech",
        "network": "run/checkpoints/final.pt",
        "not checked": verify.NOT_CHECKED,
    }


def test_the_threshold_decides(folder, capsys):
    calibration(folder, 1.1, 1.2).write(folder / "run/calibration.json")
    text = answer(capsys, "a.wav", "b.wav")
    assert text.startswith("Different speakers, ") and ", below the threshold 1.10.\n" in text
    assert "likelihood ratio  0." in text and "1 % of different-speaker pairs score above 1.20\n" in text
    calibration(folder, -1.1, 1.2).write(folder / "other.json")
    text = answer(capsys, "a.wav", "b.wav", "--calibration", "other.json")
    assert text.startswith("Same speaker, probably. ") and "likelihood ratio  above 1,000: " in text
    assert "such a score is more than 1,000 times as frequent for one speaker as for two" in text


@pytest.mark.parametrize(
    "score, threshold, words",
    [
        (0.7, 0.4, "Same speaker, probably. Score 0.70, above the threshold 0.40."),
        (0.5, 0.4, "Same speaker, but it is a close call. Score 0.50, above the threshold 0.40."),
        (0.4, 0.4, "Same speaker, but it is a close call. Score 0.40, above the threshold 0.40."),
        (0.3, 0.4, "Different speakers, but it is a close call. Score 0.30, below the threshold 0.40."),
        (0.1, 0.4, "Different speakers, probably. Score 0.10, below the threshold 0.40."),
    ],
)
def test_the_answer_is_one_sentence_and_says_how_sure_it_is(score, threshold, words):
    made = Calibration("0" * 12, 10.0, -10 * threshold, threshold, 0.1, 0.1, 0.6, 0.3, 100, 50, 5, 0)
    assert verify.answer(score, made, doubtful=False) == words
    assert "but do not rely on it: the threshold may not fit" in verify.answer(score, made, doubtful=True)


@pytest.mark.parametrize("score", [0.1, 0.5, 0.7])
@pytest.mark.parametrize("threshold, strict", [(0.4, 0.6), (0.6, 0.4), (0.5, 0.5)])
def test_a_stricter_bound_is_shown_only_above_the_threshold(score, threshold, strict):
    """A network that separates its own clusters almost perfectly has a 1 % bound below its threshold."""
    made = Calibration("0" * 12, 10.0, -10 * threshold, threshold, 0.02, 0.001, strict, 0.3, 100, 50, 5, 0)
    shown = dict(verify.evidence(score, made))
    assert ("stricter bound" in shown) == (strict > threshold)
    assert shown["error rates"].startswith(
        "2 % of same-speaker pairs score below the threshold, 0.1 % of different-speaker pairs above"
    )
    assert shown["likelihood ratio"].startswith(verify.likelihood_ratio(10 * (score - threshold)) + ": ")


def test_without_calibration_the_score_is_not_judged(folder, capsys):
    text = answer(capsys, "a.wav", "a.wav")
    assert text.startswith("No answer, only a score: 1.00") and "peaker" not in text and "no threshold" in text
    assert "python local/calibrate.py --checkpoint run/checkpoints/final.pt" in text


def test_calibration_of_another_checkpoint_is_not_used(folder, capsys):
    replace(calibration(folder, 0.4, 0.5), checkpoint="0" * 12).write(folder / "run/calibration.json")
    text = answer(capsys, "a.wav", "a.wav")
    assert text.startswith("No answer, only a score: 1.00") and "made for another checkpoint" in text
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


def with_signs(folder, **quantiles):
    signs = {
        "recordings": 500,
        "levels": list(LEVELS),
        "speech_seconds": [0.5, 1, 3, 6, 12],
        "bandwidth": [7000, 7600, 8000, 8000, 8000],
        "snr": [-60, 0, 5, 40, 60],
        "halves": [-1, -1, 0, 1, 1],
    }
    replace(calibration(folder, 0.4, 0.5), signs=signs | quantiles).write(folder / "run/calibration.json")


def test_recordings_like_those_of_the_calibration_are_not_warned_of(folder, capsys):
    with_signs(folder)
    text = answer(capsys, "a.wav", "a.wav")
    assert text.startswith("Same speaker, probably. ") and "warning" not in text and "not checked" not in text


@pytest.mark.parametrize(
    "quantiles, told",
    [
        ({"speech_seconds": [2, 2.5, 3, 6, 12]}, "only 1.5 s of speech; usual are at least 1.9 s"),
        ({"snr": [25, 30, 40, 55, 60]}, "noise, or sound without pauses: SNR about "),
        ({"halves": [1.1, 1.2, 1.3, 1.4, 1.5]}, "its two halves score only "),
        ({"bandwidth": [3500, 3600, 3700, 3900, 4000]}, "sound up to 8.0 kHz; usual are 3.0 kHz to 4.5 kHz"),
    ],
)
def test_unlike_recordings_are_warned_of_and_the_answer_says_so(folder, capsys, quantiles, told):
    with_signs(folder, **quantiles)
    first, *_, before_last, last = answer(capsys, "a.wav", "b.wav").splitlines()
    assert "but do not rely on it" in first
    assert before_last.startswith(f"warning: a.wav: {told}") and last.startswith(f"warning: b.wav: {told}")


def test_a_telephone_recording_is_warned_of(folder, capsys):
    with_signs(folder)
    narrow = resample_poly(noise(1.5)[::2, 0], 2, 1).astype(np.int16)[:, None]
    record(folder / "phone.wav", narrow)
    warnings = [line for line in answer(capsys, "a.wav", "phone.wav").splitlines() if line.startswith("warning")]
    assert len(warnings) == 1 and warnings[0].startswith("warning: phone.wav: no sound above 4.")


def test_the_network_that_comes_with_the_project_needs_no_checkpoint(folder, capsys, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", folder / "models")
    with pytest.raises(UserError, match="models/speaker.pt: the network that comes with the project is missing"):
        call(verify, "a.wav", "a.wav", "--device", "cpu")
    with_signs(folder)
    shipped.copy_network(folder / "run/checkpoints/final.pt", folder / "models/speaker.pt")
    call(verify, "a.wav", "a.wav", "--device", "cpu")
    text = capsys.readouterr().out
    assert text.startswith("Same speaker, probably. Score 1.00")
    assert "network           models/speaker.pt, which comes with the project; --checkpoint selects another" in text
