"""The quality on a validation set, which the curriculum follows."""

import math

import numpy as np
import pytest
import torch

from cslib.config import UserError
from cslib.data.pairs import PairedUtterances
from cslib.datasets.augmentation import to_float
from cslib.evaluation import validation as validating
from cslib.evaluation.speech_quality import Unmeasurable, pesq_wide_band, si_sdr
from cslib.evaluation.validation import Validation, ValidationConfig
from cslib.models import mask_gru
from cslib.parallel import in_order
from tests.evaluation.speech import needs_pesq, talk
from tests.evaluation.speech import noisy as noisy_speech
from tests.objectives.ccr.tiny_ccr import (
    Network,
    batch_of,
    objective,
)
from tests.tiny_pairs import make_negative, make_pairs


def test_quality_is_the_mean_over_all_recordings_and_so_are_those_of_the_negatives(data):
    made = objective(data)
    assert made.validation.rows.tolist() == [0, 2, 3, 5]
    made(batch_of(made))
    pairs = PairedUtterances.open(data / "valid", [data / "poor/valid", data / "good/valid"])
    read = [pairs.read(row) for row in made.validation.rows]
    expected = [np.mean([si_sdr(signals[1], signals[index]) for signals in read]) for index in (0, 2, 3)]
    found = [made.quality.item(), *made.regulariser.curriculum.qualities.tolist()]
    assert found == pytest.approx(expected, abs=1e-4) and found == sorted(found)
    made.step = 1
    made.after_step()
    enhanced = [made.network.eval().enhance(to_float(torch.from_numpy(signals[:1])))[0].numpy() for signals in read]
    expected = np.mean([si_sdr(signals[1], audio) for signals, audio in zip(read, enhanced, strict=True)])
    assert made.quality.item() == pytest.approx(expected, abs=1e-3) == made.regulariser.curriculum.best.item()


def test_validation_runs_every_few_steps_and_does_not_change_the_training(data):
    made = objective(data, every=3).train()
    made(batch_of(made))
    state = torch.get_rng_state()
    due = []
    for made.step in range(7):
        made.quality.fill_(math.nan)
        made.after_step()
        due.append(not made.quality.isnan().item())
    assert due == [False, False, True, False, False, True, False]
    assert made.network.training and torch.equal(torch.get_rng_state(), state)


def test_unmeasurable_recordings_count_as_poor_in_every_arm(data, monkeypatch):
    def measure(clean, enhanced):
        if np.ptp(enhanced) == 0:
            raise Unmeasurable("silent")
        return 3.0

    class Silent(torch.nn.Module):
        def enhance(self, audio, lengths):
            return torch.cat([torch.zeros_like(audio[:1]), audio[1:]])

    monkeypatch.setitem(validating.MEASURES, "si_sdr", (measure, 1.0))
    validation = Validation(PairedUtterances.open(data / "valid"), ValidationConfig(data / "valid", "si_sdr", 4))
    assert validation.of_network(Silent(), torch.device("cpu")) == pytest.approx((1 + 3 * 3) / 4)
    assert validation.of_recordings() == [3.0]


def test_nan_output_counts_as_poor_and_other_errors_are_raised(data):
    score = Validation(PairedUtterances.open(data / "valid"), ValidationConfig(data / "valid", "si_sdr", 4)).score
    clean = talk(0)
    worst = validating.MEASURES["si_sdr"][1]
    assert score((clean, np.full_like(clean, np.nan))) == worst < score((clean, clean + 0.01 * noisy_speech(clean)))
    with pytest.raises(ValueError, match="equal length"):
        score((clean, clean[:-1]))


@needs_pesq
def test_pesq_needs_a_minimal_length(tmp_path):
    pairs = make_pairs(tmp_path / "valid", count=2, seconds=1.5)
    opened = PairedUtterances.open(pairs)
    validation = Validation(opened, ValidationConfig(pairs))
    noisy, clean = opened.read(0)
    assert len(validation.rows) == 2
    assert validation.of_recordings()[0] == pytest.approx(
        (pesq_wide_band(clean, noisy) + pesq_wide_band(*opened.read(1)[::-1])) / 2
    )
    short = make_pairs(tmp_path / "short", count=2, seconds=0.2)
    with pytest.raises(UserError, match="no recording of 0.25 s or more"):
        Validation(PairedUtterances.open(short), ValidationConfig(short))


@needs_pesq
def test_quality_does_not_depend_on_the_number_of_processes(tmp_path, monkeypatch):
    pairs = make_pairs(tmp_path / "valid", count=5, seconds=1.0)
    negative = make_negative(tmp_path / "half", pairs, 0.5)
    network, asked = mask_gru.build(Network(hidden=4)), []
    monkeypatch.setattr(
        validating,
        "in_order",
        lambda function, items, nj, chunk: asked.append(nj) or in_order(function, items, nj, chunk),
    )
    found = []
    for worth in (3, 6):  # of a process: 5 recordings, and 10 with the negative
        monkeypatch.setattr(validating, "_cores", lambda: 2)
        monkeypatch.setattr(validating, "WORTH_A_PROCESS", worth)
        validation = Validation(PairedUtterances.open(pairs, [negative / "valid"]), ValidationConfig(pairs))
        found.append([validation.of_network(network, torch.device("cpu")), *validation.of_recordings()])
    assert asked == [1, 2, 0, 1]
    assert found[0] == found[1] and found[0][1] < found[0][2]  # less noise is better
