"""The measures against slow transcriptions of their definitions, published values and cases done by hand."""

import math
import sys
from functools import cache

import numpy as np
import pytest
from scipy.linalg import solve_toeplitz, toeplitz

from cslib.config import UserError
from cslib.evaluation import speech_quality as measures
from cslib.evaluation.speech_quality import (
    BAND_CENTRES,
    BAND_WIDTHS,
    MEASURES,
    Unmeasurable,
    composite,
    log_likelihood_ratio,
    measure,
    pesq_wide_band,
    segmental_snr,
    si_sdr,
    stoi,
    weighted_spectral_slope,
)
from tests.evaluation.speech import RATE, needs_pesq, noisy, pcm, talk

# What was published for unprocessed test files of VoiceBank-DEMAND: PESQ, CSIG, CBAK, COVL, SSNR.
PUBLISHED = {
    "p232_003": (2.811937, 4.324330, 2.943643, 3.567698, 2.048277),
    "p232_005": (1.331947, 2.566457, 1.971026, 1.896903, -0.011480),
    "p232_006": (2.205719, 3.589885, 3.204783, 2.899477, 10.645959),
    "mean of 824": (1.971994, 3.345373, 2.443066, 2.631938, 1.679430),
}


@pytest.fixture(scope="module")
def pair():
    clean = talk()
    return clean, noisy(clean)


def frames_of(signal):
    """The definition's frames, one by one."""
    window = [0.5 * (1 - np.cos(2 * np.pi * n / 481)) for n in range(1, 481)]
    for number in range(int((len(signal) - 480) / 120)):
        yield (signal[120 * number : 120 * number + 480] + 2.2e-16) * window


def mean_of_lowest(distances):
    return np.mean(sorted(distances)[: round(0.95 * len(distances))])


def slow_ssnr(clean, enhanced):
    ratios = [
        10 * np.log10(np.sum(c**2) / (np.sum((c - e) ** 2) + 2.2e-16) + 2.2e-16)
        for c, e in zip(frames_of(clean), frames_of(enhanced), strict=True)
    ]
    return np.mean([min(max(ratio, -10), 35) for ratio in ratios])


def slow_llr(clean, enhanced):
    distances = []
    for pair_of_frames in zip(frames_of(clean), frames_of(enhanced), strict=True):
        lags = [np.array([np.dot(f[: 480 - k], f[k:]) for k in range(17)]) for f in pair_of_frames]
        own, other = (np.concatenate([[1], -solve_toeplitz(r[:16], r[1:])]) for r in lags)
        matrix = toeplitz(lags[0])
        distances.append(np.log(other @ matrix @ other / (own @ matrix @ own)))
    return mean_of_lowest(distances)


@cache
def slow_filter(band):
    weights = []
    for j in range(512):
        distance = (j - math.floor(BAND_CENTRES[band] / 8000 * 512)) / (BAND_WIDTHS[band] / 8000 * 512)
        weight = math.exp(-11 * distance**2 + math.log(70 / BAND_WIDTHS[band]))
        weights.append(weight if weight > math.exp(-30 / (2 * 2.303)) else 0)
    return np.array(weights)


def slow_bands(frame):
    """Level of each band in dB, by a Fourier transform of all 1024 bins."""
    power = np.abs(np.fft.fft(np.concatenate([frame, np.zeros(1024 - 480)]))) ** 2
    return [10 * np.log10(max(slow_filter(band) @ power[:512], 1e-10)) for band in range(25)]


def slow_peak(levels, slopes, band):
    n = band
    if slopes[band] > 0:
        while n < 24 and slopes[n] > 0:
            n += 1
        return levels[n - 1]
    while n >= 0 and slopes[n] <= 0:
        n -= 1
    return levels[n + 1]


def slow_wss(clean, enhanced):
    distances = []
    for pair_of_frames in zip(frames_of(clean), frames_of(enhanced), strict=True):
        weights, slopes = np.zeros(24), []
        for levels in map(slow_bands, pair_of_frames):
            slope = [levels[i + 1] - levels[i] for i in range(24)]
            weights += [
                20 / (20 + max(levels) - levels[i]) / (1 + slow_peak(levels, slope, i) - levels[i]) / 2
                for i in range(24)
            ]
            slopes.append(np.array(slope))
        distances.append(np.sum(weights * (slopes[0] - slopes[1]) ** 2) / np.sum(weights))
    return mean_of_lowest(distances)


@pytest.mark.parametrize("seed, snr", [(1, 0.0), (2, 12.0)])
def test_measures_of_frames_equal_their_definitions(seed, snr):
    clean = talk(seed, 0.5)
    enhanced = noisy(clean, snr)
    assert segmental_snr(clean, enhanced) == pytest.approx(slow_ssnr(clean, enhanced), abs=1e-9)
    assert log_likelihood_ratio(clean, enhanced) == pytest.approx(slow_llr(clean, enhanced), abs=1e-8)
    assert weighted_spectral_slope(clean, enhanced) == pytest.approx(slow_wss(clean, enhanced), abs=1e-8)


def test_doubly_scaled_slope_is_that_of_samples_divided_once_more():
    clean = talk(3, 0.4)
    enhanced = noisy(clean, 5)
    expected = slow_wss(clean / 32768, enhanced / 32768)
    assert weighted_spectral_slope(clean, enhanced, doubly_scaled=True) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("name", PUBLISHED)
def test_composite_agrees_with_published_values(name):
    """LLR and WSS were not published: CSIG and CBAK tell them, and then COVL has to follow."""
    pesq, csig, cbak, covl, ssnr = PUBLISHED[name]
    wss = (1.634 + 0.478 * pesq + 0.063 * ssnr - cbak) / 0.007
    llr = (3.093 + 0.603 * pesq - 0.009 * wss - csig) / 1.029
    assert 0 < llr < 2 and 0 < wss < 100
    tolerance = 1e-5 if name.startswith("p") else 1e-2  # some files are clipped to 1, so the mean is not linear
    assert composite(pesq, llr, wss, ssnr) == pytest.approx((csig, cbak, covl), abs=tolerance)


def test_composite_stays_between_1_and_5():
    assert composite(4.64, 0.0, 0.0, 35.0) == (5, 5, 5)
    assert composite(1.0, 5.0, 200.0, -10.0) == (1, 1, 1)


def test_si_sdr_by_hand():
    # The part of the enhanced signal along the clean one is itself; what is left is 1/10 as large.
    clean, left = np.array([1.0, -1, 1, -1]), np.array([0.1, 0.1, -0.1, -0.1])
    assert si_sdr(clean, clean + left) == pytest.approx(20)
    assert si_sdr(clean, left) == pytest.approx(-10 * np.log10(1 / np.finfo(float).eps))
    assert si_sdr(clean, clean) == pytest.approx(10 * np.log10(1 / np.finfo(float).eps))


def test_si_sdr_does_not_see_level_offset_or_sign(pair):
    clean, enhanced = pair
    expected = si_sdr(clean, enhanced)
    assert expected == pytest.approx(5, abs=0.2)
    assert si_sdr(clean, 0.01 * enhanced) == pytest.approx(expected, abs=1e-6)
    assert si_sdr(3 * clean + 0.2, enhanced - 0.1) == pytest.approx(expected, abs=1e-6)
    assert si_sdr(clean, -enhanced) == pytest.approx(expected, abs=1e-6)


def test_segmental_snr_by_hand():
    clean = talk(4)
    assert segmental_snr(clean, 0.9 * clean) == pytest.approx(20, abs=1e-6)  # an error of a tenth everywhere
    assert segmental_snr(clean, clean) == pytest.approx(35)  # clipped from above
    assert segmental_snr(clean, 11 * clean) == pytest.approx(-10)  # and from below
    half = np.where(np.arange(len(clean)) < len(clean) // 2, clean, 0.9 * clean)
    assert segmental_snr(clean, half) == pytest.approx(27.5, abs=0.2)  # mean of 35 and 20 dB


@needs_pesq
def test_perfect_enhancement_has_the_best_values():
    clean = talk(5)
    values, reason = measure(clean, clean)
    assert reason == "" and set(values) == set(MEASURES)
    best = {"pesq": 4.6439, "stoi": 1, "estoi": 1, "csig": 5, "cbak": 5, "covl": 5, "ssnr": 35, "llr": 0, "wss": 0}
    assert {name: values[name] for name in best} == pytest.approx(best, abs=1e-4)
    assert values["si_sdr"] > 150


@needs_pesq
def test_less_noise_is_better_by_every_measure():
    clean = talk(6)
    worse, better = (measure(clean, noisy(clean, snr))[0] for snr in (0, 15))
    for name in MEASURES:
        rises = name not in ("llr", "wss", "wss_doubly_scaled")
        assert (better[name] > worse[name]) == rises, name


@needs_pesq
def test_integers_and_floats_of_one_file_score_the_same(pair):
    clean, enhanced = map(pcm, pair)
    expected, _ = measure(clean, enhanced)
    assert measure(clean / 32768, enhanced / 32768)[0] == expected
    halves = measure((clean / 32768).astype(np.float32), (enhanced / 32768).astype(np.float32))[0]
    assert halves == pytest.approx(expected, abs=1e-9)


@needs_pesq
def test_doubly_scaled_composite_is_apart_and_higher(pair):
    values, _ = measure(*pair)
    for name in ("csig", "cbak", "covl"):
        assert values[f"{name}_doubly_scaled"] > values[name] + 0.02
    expected = composite(values["pesq"], values["llr"], values["wss_doubly_scaled"], values["ssnr"])
    assert values["csig_doubly_scaled"] == expected.csig


@needs_pesq
def test_packages_get_the_clean_recording_first_at_16_khz(pair):
    from pesq import pesq
    from pystoi import stoi as pystoi

    clean, enhanced = pair
    assert pesq_wide_band(clean, enhanced) == pesq(RATE, clean, enhanced, "wb")
    assert pesq_wide_band(clean, enhanced) != pesq_wide_band(enhanced, clean)
    assert stoi(clean, enhanced) == pystoi(clean, enhanced, RATE)
    assert stoi(clean, enhanced, extended=True) == pytest.approx(pystoi(clean, enhanced, RATE, extended=True))
    assert stoi(clean, enhanced, extended=True) < stoi(clean, enhanced)


def test_estoi_repeats_itself_where_the_enhanced_recording_is_zero_and_leaves_random_numbers_alone(pair):
    clean, enhanced = pair[0], np.where(np.arange(len(pair[1])) < RATE, 0, pair[1])
    np.random.seed(7)
    first = stoi(clean, enhanced, extended=True)
    drawn = np.random.random()
    assert stoi(clean, enhanced, extended=True) == first
    np.random.seed(7)
    assert np.random.random() == drawn


@needs_pesq
def test_digital_silence_gives_finite_values():
    clean = np.where(np.arange(2 * RATE) < RATE, 0, talk(8))
    for enhanced in (clean, noisy(clean)):
        values, reason = measure(clean, enhanced)
        assert reason == "" and np.isfinite(list(values.values())).all()
    assert log_likelihood_ratio(clean, clean) == 0


@needs_pesq
def test_pesq_of_a_long_recording_is_the_mean_of_its_pieces():
    clean = talk(9, 21)
    dirty = noisy(clean)
    half = len(clean) // 2
    pieces = [pesq_wide_band(clean[part], dirty[part]) for part in (slice(half), slice(half, None))]
    assert pesq_wide_band(clean, dirty) == pytest.approx(np.mean(pieces))


@needs_pesq
def test_what_fails_is_named_and_the_rest_is_measured():
    speech = np.concatenate([talk(9, 10.5), np.zeros(round(10.5 * RATE))])  # PESQ hears two pieces of it
    values, reason = measure(speech, noisy(speech))
    assert reason.startswith("PESQ: ")
    assert set(MEASURES) - set(values) == {
        "pesq",
        "csig",
        "cbak",
        "covl",
        "csig_doubly_scaled",
        "cbak_doubly_scaled",
        "covl_doubly_scaled",
    }
    clean = np.zeros(2 * RATE)
    clean[9000:9400] = 0.1 * np.hanning(400)
    assert measure(clean, noisy(clean))[1].startswith("STOI: less than 0.4 s of it is not silent")


@needs_pesq
@pytest.mark.parametrize(
    "clean, enhanced, reason",
    [
        (np.zeros(8000), talk(0, 0.5), "the clean recording is silent"),
        (talk(0, 0.5), np.full(8000, 0.1), "the enhanced recording is silent"),
        (
            talk(0, 0.2),
            talk(1, 0.2),
            "STOI: has 3,200 samples, less than 0.25 s; PESQ: has 3,200 samples, less than 0.25 s",
        ),
        (talk(0, 0.03), talk(1, 0.03), "frames: too short for a frame"),
        (np.zeros(0), np.zeros(0), "the clean recording is empty"),
    ],
)
def test_recordings_without_values_say_why(clean, enhanced, reason):
    assert measure(clean, enhanced)[1].startswith(reason)


@needs_pesq
def test_pesq_that_finds_no_speech_says_so():
    rng = np.random.default_rng(0)
    clean = np.zeros(RATE)
    clean[8000:8400] = 0.1 * rng.standard_normal(400)  # 25 ms are no utterance
    with pytest.raises(Unmeasurable, match="^No utterances detected$"):
        pesq_wide_band(clean, clean + 0.01 * rng.standard_normal(RATE))


@pytest.mark.parametrize(
    "clean, enhanced, message",
    [
        (talk(0, 0.5), talk(0, 0.4), "equal length"),
        (talk(0, 0.5)[:, None], talk(0, 0.5)[:, None], "one channel"),
        (talk(0, 0.5), np.where(np.arange(8000) == 5, np.nan, 0.1), "the enhanced recording has samples that are not"),
        (32768 * talk(0, 0.5), 32768 * talk(0, 0.5), "with full scale 1"),
        (pcm(talk(0, 0.5)).astype(np.int32), pcm(talk(0, 0.5)), "int32; give int16"),
    ],
)
def test_what_is_no_pair_of_recordings_is_refused(clean, enhanced, message):
    with pytest.raises(ValueError, match=message) as error:
        measure(clean, enhanced)
    assert not isinstance(error.value, Unmeasurable)


def test_missing_package_is_one_sentence(pair, monkeypatch):
    monkeypatch.setitem(sys.modules, "pesq", None)
    with pytest.raises(UserError, match="pesq is not installed"):
        measures.pesq_wide_band(*pair)
