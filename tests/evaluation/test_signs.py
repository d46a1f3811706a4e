"""What a recording is like: the measures, the usual ranges, and what is told of recordings outside them."""

from dataclasses import astuple, replace

import numpy as np
import pytest
import torch
from scipy.signal import resample_poly

from cslib.evaluation.signs import (
    CLEANEST,
    LEVELS,
    NAMES,
    Signs,
    bandwidth,
    differences,
    distributions,
    limits,
    snr,
    valid,
)
from cslib.models.layers.features import energy_vad
from tests.evaluation.speech import noisy, talk

USUAL = Signs(speech_seconds=3.0, bandwidth=7900.0, snr=40.0, halves=0.6)


def tensor(samples):
    return torch.from_numpy(samples.astype(np.float32))[None]


def bandwidth_of(samples):
    audio = tensor(samples)
    return bandwidth(audio, energy_vad(audio)[0])


def limited(samples, rate):
    """Resampled from 16 kHz to `rate` and back: nothing above rate / 2."""
    return resample_poly(resample_poly(samples, rate // 1000, 16), 16, rate // 1000)


def hissing(seed):
    """Speech with energy in all frequencies."""
    return noisy(talk(seed), snr=30.0, seed=seed)


@pytest.mark.parametrize("rate", [8000, 11000])
def test_bandwidth_is_where_a_resampled_recording_ends(rate):
    for seed in range(5):
        assert bandwidth_of(hissing(seed)) > 7500
        assert bandwidth_of(limited(hissing(seed), rate)) == pytest.approx(rate / 2, abs=500)
    # The level does not matter.
    assert bandwidth_of(0.01 * limited(hissing(0), rate)) == pytest.approx(rate / 2, abs=500)


def test_snr_falls_with_noise_and_does_not_depend_on_the_level():
    speech = talk(1, seconds=4.0)
    found = [snr(tensor(noisy(speech, decibel))) for decibel in (40, 30, 20, 10, 0)]
    assert found == sorted(found, reverse=True) and found[1] - found[3] == pytest.approx(20, abs=5)
    assert snr(tensor(0.1 * noisy(speech, 20))) == pytest.approx(found[2], abs=0.5)
    assert snr(tensor(np.repeat([0.0, 0.5], 16000) * np.random.default_rng(0).standard_normal(32000))) == CLEANEST
    assert snr(tensor(np.random.default_rng(0).standard_normal(32000))) < 3


def drawn(count, seed):
    rng = np.random.default_rng(seed)
    return [
        Signs(*values)
        for values in zip(
            rng.gamma(6, 0.5, count),
            8000 - rng.gamma(2, 150, count),
            rng.normal(40, 8, count).clip(0, CLEANEST),
            rng.normal(0.6, 0.15, count),
            strict=True,
        )
    ]


@pytest.mark.parametrize("count, most", [(500, 0.03), (40, 0.06)])
def test_few_of_the_usual_recordings_are_told(count, most):
    """About two in a hundred; hardly more when a calibration has few recordings, whose extremes lie closer together."""
    others = drawn(1000, seed=100)
    told = [
        np.mean([bool(differences(one, known)) for one in others])
        for known in (distributions(drawn(count, seed)) for seed in range(10))
    ]
    assert 0.005 < np.mean(told) < most


def test_limits_are_the_outer_quantiles_of_many_recordings():
    measured = [replace(USUAL, halves=value) for value in np.linspace(0, 1, 1001)]
    known = distributions(measured)
    assert limits(known, "halves") == pytest.approx((0.005, 0.995))
    few = limits(known | {"recordings": 50}, "halves")
    assert few == pytest.approx((0.5 - 1.6 * 0.45, 0.5 + 1.6 * 0.45))


@pytest.mark.parametrize(
    "change, told",
    [
        ({"speech_seconds": 1.0}, "only 1.0 s of speech; usual are at least 2.9 s"),
        ({"bandwidth": 4400.0}, "no sound above 4.4 kHz, as from a telephone; usual are 7.4 kHz to 8.0 kHz"),
        ({"snr": 12.0}, "noise, or sound without pauses: SNR about 12 dB; usual are 39 dB to 41 dB"),
        ({"snr": 60.0}, "less noise: SNR about 60 dB; usual are 39 dB to 41 dB"),
        ({"halves": 0.1}, "its two halves score only 0.10 with each other; usual are at least 0.60"),
    ],
)
def test_each_sign_is_told_in_words(change, told):
    known = distributions([USUAL] * 300)
    assert differences(replace(USUAL, **change), known) == [told]


def test_long_speech_and_similar_halves_are_nothing_to_warn_of():
    known = distributions([USUAL] * 300)
    assert differences(USUAL, known) == []
    assert differences(replace(USUAL, speech_seconds=600.0, halves=1.0), known) == []
    assert len(differences(Signs(0.0, 0.0, 0.0, -1.0), known)) == len(NAMES)


def test_what_is_kept_is_valid_and_what_is_damaged_is_not():
    known = distributions(drawn(100, 0))
    assert valid(known) and known["recordings"] == 100 and known["levels"] == list(LEVELS)
    assert known["snr"] == pytest.approx(np.quantile([one.snr for one in drawn(100, 0)], LEVELS), abs=1e-4)
    for damaged in (None, [], {}, known | {"recordings": "many"}, {n: v for n, v in known.items() if n != "snr"}):
        assert not valid(damaged)
    assert len(astuple(USUAL)) == len(NAMES)
