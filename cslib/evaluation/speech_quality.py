"""Measures of an enhanced recording against the clean one: SI-SDR, segmental SNR, LLR, WSS, composite, PESQ, STOI.

All take `clean` and `enhanced`, one channel of equal length at 16 kHz, as int16 or as floats with full scale 1. Both
types give the same values: int16 is scaled to full scale 1 first, and no measure scales samples again.

Segmental SNR, LLR and WSS are the components of the composite measures CSIG, CBAK and COVL (Hu and Loizou, "Evaluation
of objective quality measures for speech enhancement", 2008). Their frames, floors and trimmed means follow the
implementation behind the published VoiceBank-DEMAND tables, with wide-band PESQ. On the unprocessed test files of that
corpus they average to CSIG 3.35, CBAK 2.44, COVL 2.63 and SSNR 1.68 dB.

To add a measure, write a function (clean, enhanced) -> float here, assign it in one of the steps of `measure`, and name
it in MEASURES: it is then part of every table of scores. HEADLINE lists those of results.json and of printed tables.

All frames of a recording are held at once: about 4 MB per second of audio.
"""

from __future__ import annotations

import math
import warnings
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import numpy as np

from cslib.config import UserError
from cslib.corpora.audio_files import LOUDEST
from cslib.data.manifests import SAMPLE_RATE

FRAME_LENGTH = SAMPLE_RATE * 30 // 1000
FRAME_SHIFT = FRAME_LENGTH // 4
EPS = np.finfo(np.float64).eps
KEPT = 0.95  # share of the frames, those of the lowest values, that LLR and WSS average over
SSNR_RANGE = (-10.0, 35.0)  # dB, to which the SNR of a frame is clipped
LPC_ORDER = 16
FFT_SIZE = 1024
SHORTEST = SAMPLE_RATE // 4  # samples; PESQ refuses shorter recordings, and STOI has no frame
# PESQ's C code has room for 50 utterances and writes beyond it unchecked. An utterance takes at least 0.2 s, and the
# pause after it as well, so that 20 s cannot hold more.
PESQ_LONGEST = 20 * SAMPLE_RATE

HEADLINE = ("pesq", "stoi", "estoi", "csig", "cbak", "covl", "ssnr", "si_sdr")
MEASURES = (
    *HEADLINE,
    "llr",
    "wss",
    "csig_doubly_scaled",
    "cbak_doubly_scaled",
    "covl_doubly_scaled",
    "wss_doubly_scaled",
)

# Critical bands of WSS in Hz (Klatt 1982).
BAND_CENTRES = np.array(
    [
        50,
        120,
        190,
        260,
        330,
        400,
        470,
        540,
        617.372,
        703.378,
        798.717,
        904.128,
        1020.38,
        1148.30,
        1288.72,
        1442.54,
        1610.70,
        1794.16,
        1993.93,
        2211.08,
        2446.71,
        2701.97,
        2978.04,
        3276.17,
        3597.63,
    ]
)
BAND_WIDTHS = np.array(
    [
        70,
        70,
        70,
        70,
        70,
        70,
        70,
        77.3724,
        86.0056,
        95.3398,
        105.411,
        116.256,
        127.914,
        140.423,
        153.823,
        168.154,
        183.457,
        199.776,
        217.153,
        235.631,
        255.255,
        276.072,
        298.126,
        321.465,
        346.136,
    ]
)


class Unmeasurable(ValueError):
    """A measure is undefined for this recording; the message says why."""


class Composite(NamedTuple):
    """Predicted ratings from 1 to 5 of signal distortion, background intrusiveness and overall quality."""

    csig: float
    cbak: float
    covl: float


def measure(clean: np.ndarray, enhanced: np.ndarray) -> tuple[dict[str, float], str]:
    """{measure: value} of a pair, and why some measures are missing (empty if none is).

    The names are those of MEASURES. A `*_doubly_scaled` measure uses a WSS on the wrong scale and serves only for
    comparison with other tables: see `weighted_spectral_slope`.
    Raises ValueError as `checked` does, except for silence.
    """
    values: dict[str, float] = {}
    reasons: list[str] = []
    try:
        pair = checked(clean, enhanced)
    except Unmeasurable as error:
        return values, str(error)
    for name, step in (
        ("frames", _of_frames),
        ("SI-SDR", _of_energies),
        ("STOI", _of_intelligibility),
        ("PESQ", _of_quality),
    ):
        try:
            step(values, *pair)
        except Unmeasurable as error:
            reasons.append(f"{name}: {error}")
    return values, "; ".join(reasons)


def _of_frames(values: dict[str, float], clean: np.ndarray, enhanced: np.ndarray) -> None:
    values["ssnr"] = segmental_snr(clean, enhanced)
    values["llr"] = log_likelihood_ratio(clean, enhanced)
    values["wss"] = weighted_spectral_slope(clean, enhanced)
    values["wss_doubly_scaled"] = weighted_spectral_slope(clean, enhanced, doubly_scaled=True)


def _of_energies(values: dict[str, float], clean: np.ndarray, enhanced: np.ndarray) -> None:
    values["si_sdr"] = si_sdr(clean, enhanced)


def _of_intelligibility(values: dict[str, float], clean: np.ndarray, enhanced: np.ndarray) -> None:
    values["stoi"], values["estoi"] = stoi(clean, enhanced), stoi(clean, enhanced, extended=True)


def _of_quality(values: dict[str, float], clean: np.ndarray, enhanced: np.ndarray) -> None:
    """PESQ and the composite measures. A recording that is too short for frames is too short for PESQ."""
    values["pesq"] = pesq_wide_band(clean, enhanced)
    for suffix in ("", "_doubly_scaled"):
        ratings = composite(values["pesq"], values["llr"], values[f"wss{suffix}"], values["ssnr"])
        values.update((f"{name}{suffix}", rating) for name, rating in ratings._asdict().items())


def checked(clean: np.ndarray, enhanced: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pair as float64 [T] with full scale 1.

    Raises Unmeasurable when one of the two is silent (zeros or any other constant), and ValueError when they are not
    one channel of equal length, not finite, or on another scale.
    """
    clean, enhanced = _at_full_scale(clean), _at_full_scale(enhanced)
    if clean.ndim != 1 or clean.shape != enhanced.shape:
        raise ValueError(f"need two signals of one channel and equal length, not {clean.shape} and {enhanced.shape}")
    for name, signal in (("clean", clean), ("enhanced", enhanced)):
        if not np.isfinite(signal).all():
            raise ValueError(f"the {name} recording has samples that are not finite")
        if len(signal) and np.abs(signal).max() > LOUDEST:
            raise ValueError(
                f"the {name} recording reaches {np.abs(signal).max():,.0f}; give int16, or floats with full scale 1"
            )
        if not len(signal) or np.ptp(signal) == 0:
            raise Unmeasurable(f"the {name} recording is {'silent' if len(signal) else 'empty'}")
    return clean, enhanced


def _at_full_scale(signal: np.ndarray) -> np.ndarray:
    signal = np.asarray(signal)
    if signal.dtype == np.int16:
        return signal / 32768.0
    if not np.issubdtype(signal.dtype, np.floating):
        raise ValueError(f"samples are of type {signal.dtype}; give int16, or floats with full scale 1")
    return signal.astype(np.float64)


def si_sdr(clean: np.ndarray, enhanced: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019), of signals with their mean removed.

    Rounding limits the range to +-156.5 dB; equal recordings have the upper limit.
    """
    clean, enhanced = (signal - signal.mean() for signal in checked(clean, enhanced))
    target = (enhanced @ clean) / (clean @ clean) * clean
    residual = enhanced - target
    floor = EPS * (enhanced @ enhanced)
    return float(10 * np.log10(max(target @ target, floor) / max(residual @ residual, floor)))


def segmental_snr(clean: np.ndarray, enhanced: np.ndarray) -> float:
    """SSNR in dB: the mean over frames of 30 ms of their SNR, each clipped to [-10, 35] dB.

    Raises Unmeasurable for less than 37.5 ms, as LLR and WSS do.
    """
    clean, enhanced = _frames_of_pair(clean, enhanced)
    signal, noise = np.square(clean).sum(1), np.square(clean - enhanced).sum(1)
    return float(np.clip(10 * np.log10(signal / (noise + EPS) + EPS), *SSNR_RANGE).mean())


def log_likelihood_ratio(clean: np.ndarray, enhanced: np.ndarray) -> float:
    """LLR: log ratio of the prediction error of the clean frame under the enhanced frame's linear prediction filter to
    that under its own filter; mean of the lowest 95 % of the frames. 0 or more, up to rounding.

    Frames are not clipped. A frame of digital silence in the clean recording alone has an LLR of about 25, so that a
    clean recording with more than 5 % of such frames gets a CSIG of 1.
    """
    clean, enhanced = _frames_of_pair(clean, enhanced)
    own, other = (_prediction_error(clean, linear_prediction(frames)) for frames in (clean, enhanced))
    return _mean_of_lowest(np.log(other / own))


def linear_prediction(frames: np.ndarray, order: int = LPC_ORDER) -> np.ndarray:
    """Prediction-error filters [F, order + 1] of windowed frames [F, N], by the autocorrelation method.

    Levinson-Durbin recursion over all frames at once; the first coefficient is 1.
    """
    size = frames.shape[1]
    lags = np.stack([np.einsum("ft,ft->f", frames[:, : size - lag], frames[:, lag:]) for lag in range(order + 1)], 1)
    filters = np.zeros_like(lags)
    filters[:, 0] = 1
    error = lags[:, 0].copy()
    for i in range(1, order + 1):
        reflection = -np.einsum("fj,fj->f", filters[:, :i], lags[:, i:0:-1]) / error
        filters[:, 1 : i + 1] += reflection[:, None] * filters[:, i - 1 :: -1]
        error *= 1 - np.square(reflection)
    return filters


def _prediction_error(frames: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Energy [F] of the frames [F, N] after the filters [F, P]: the quadratic form a R a' of their autocorrelation.

    Filtering cannot give a negative energy; by rounding, the quadratic form can, where a frame is nearly constant.
    """
    size, taps = frames.shape[1], filters.shape[1]
    filtered = np.zeros((len(frames), size + taps - 1))
    for lag in range(taps):
        filtered[:, lag : lag + size] += filters[:, lag, None] * frames
    return np.square(filtered).sum(1)


def weighted_spectral_slope(clean: np.ndarray, enhanced: np.ndarray, doubly_scaled: bool = False) -> float:
    """WSS (Klatt 1982): distance between spectral slopes over 25 critical bands, weighted towards spectral peaks; mean
    of the lowest 95 % of the frames. 0 or more.

    doubly_scaled   divide the samples by 32768 once more. Widespread scripts do so, by passing floats to code written
                    for int16: spectra fall below the floor, WSS decreases, and the composite measures rise by 0.1 on
                    the VoiceBank-DEMAND test files and by 0.2 on noisier ones. Only for comparison with such tables.
    """
    scale = 1 / 32768 if doubly_scaled else 1.0
    levels = [_band_levels(scale * frames) for frames in _frames_of_pair(clean, enhanced)]
    slopes = [np.diff(level, axis=1) for level in levels]
    weights = (_slope_weights(levels[0], slopes[0]) + _slope_weights(levels[1], slopes[1])) / 2
    distances = (weights * np.square(slopes[0] - slopes[1])).sum(1) / weights.sum(1)
    return _mean_of_lowest(distances)


def _band_levels(frames: np.ndarray) -> np.ndarray:
    """Frames [F, 480] -> level of each critical band in dB, at least -100 [F, 25]."""
    spectrum = np.fft.rfft(frames, FFT_SIZE)[:, : FFT_SIZE // 2]  # without the Nyquist bin
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    return 10 * np.log10(np.maximum(power @ band_filters().T, 1e-10))


def band_filters() -> np.ndarray:
    """[25, 512]: Gaussian weights of the bins in each critical band, of equal area; small ones are 0."""
    bins = FFT_SIZE / SAMPLE_RATE  # per Hz
    distance = (np.arange(FFT_SIZE // 2) - np.floor(BAND_CENTRES * bins)[:, None]) / (BAND_WIDTHS * bins)[:, None]
    weights = np.exp(-11 * np.square(distance)) * (BAND_WIDTHS[0] / BAND_WIDTHS)[:, None]
    return np.where(weights > np.exp(-30 / (2 * 2.303)), weights, 0.0)


def _slope_weights(levels: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """[F, 24], from 0 to 1: high for levels near the maximum of the frame and near the next peak."""
    rising, place = slopes > 0, np.arange(slopes.shape[1])
    # The end of a run of rising slopes to the right, and the start of a run of falling slopes to the left.
    right = np.minimum.accumulate(np.where(rising, len(place), place)[:, ::-1], axis=1)[:, ::-1] - 1
    left = np.maximum.accumulate(np.where(rising, place, -1), axis=1) + 1
    peaks = np.take_along_axis(levels, np.where(rising, right, left), axis=1)
    bands = levels[:, :-1]
    return 20 / (20 + levels.max(axis=1, keepdims=True) - bands) / (1 + peaks - bands)


def composite(pesq: float, llr: float, wss: float, ssnr: float) -> Composite:
    """CSIG, CBAK and COVL (Hu and Loizou 2008, with the coefficients of their code), each clipped to [1, 5]."""
    ratings = (
        3.093 - 1.029 * llr + 0.603 * pesq - 0.009 * wss,
        1.634 + 0.478 * pesq - 0.007 * wss + 0.063 * ssnr,
        1.594 + 0.805 * pesq - 0.512 * llr - 0.007 * wss,
    )
    return Composite(*(float(np.clip(rating, 1, 5)) for rating in ratings))


def pesq_wide_band(clean: np.ndarray, enhanced: np.ndarray) -> float:
    """Wide-band PESQ as MOS-LQO, from 1.0 to 4.64 (ITU-T P.862.2, by the ITU's reference code).

    The reference code is not safe beyond 20 s: a longer recording is divided into the fewest equal pieces of at most
    that length, and their values are averaged.
    Raises Unmeasurable for less than 0.25 s, and when PESQ finds no speech in a piece; UserError when the package is
    not installed.
    """
    clean, enhanced = checked(clean, enhanced)
    _refuse_short(clean)
    count = math.ceil(len(clean) / PESQ_LONGEST)
    return float(
        np.mean(
            [
                _pesq(*pieces)
                for pieces in zip(np.array_split(clean, count), np.array_split(enhanced, count), strict=True)
            ]
        )
    )


def _pesq(clean: np.ndarray, enhanced: np.ndarray) -> float:
    package = _imported("pesq")
    try:
        score = float(package.pesq(SAMPLE_RATE, clean, enhanced, "wb"))
    except package.PesqError as error:
        reason = error.args[0]
        raise Unmeasurable(reason.decode() if isinstance(reason, bytes) else str(reason)) from None
    except ValueError as error:  # the C code computed a delay of NaN
        raise Unmeasurable(str(error)) from None
    if not np.isfinite(score):
        raise Unmeasurable("no finite score")
    return score


def stoi(clean: np.ndarray, enhanced: np.ndarray, extended: bool = False) -> float:
    """Short-time objective intelligibility, about 0 to 1 (Taal et al. 2011), by the package pystoi.

    extended   compute eSTOI (Jensen and Taal 2016)
    Raises Unmeasurable when less than 0.4 s remains without silent frames (pystoi would return 1e-5); UserError when
    the package is not installed.
    """
    clean, enhanced = checked(clean, enhanced)
    _refuse_short(clean)
    # eSTOI adds random noise of the size of rounding errors, which decides the value of silent segments.
    state = np.random.get_state()
    np.random.seed(0)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)
            return float(_imported("pystoi").stoi(clean, enhanced, SAMPLE_RATE, extended=extended))
    except RuntimeWarning:
        raise Unmeasurable("less than 0.4 s of it is not silent") from None
    finally:
        np.random.set_state(state)


def _refuse_short(signal: np.ndarray) -> None:
    if len(signal) < SHORTEST:
        raise Unmeasurable(f"has {len(signal):,} samples, less than {SHORTEST / SAMPLE_RATE:g} s")


def _imported(package: str) -> ModuleType:
    try:
        return import_module(package)
    except ImportError:
        raise UserError(
            f"the Python package {package} is not installed; run `pip install pesq pystoi` (pesq is compiled, which "
            "needs a C compiler)"
        ) from None


def _frames_of_pair(clean: np.ndarray, enhanced: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Windowed frames [F, 480] of both, 30 ms long and 7.5 ms apart."""
    clean, enhanced = checked(clean, enhanced)
    count = (len(clean) - FRAME_LENGTH) // FRAME_SHIFT  # one less than would fit, as in the published implementation
    if count < 1:
        raise Unmeasurable("too short for a frame")
    window = 0.5 * (1 - np.cos(2 * np.pi * np.arange(1, FRAME_LENGTH + 1) / (FRAME_LENGTH + 1)))
    # EPS avoids frames of zeros, for which linear prediction is undefined.
    one, other = (
        np.lib.stride_tricks.sliding_window_view(signal + EPS, FRAME_LENGTH)[::FRAME_SHIFT][:count]
        for signal in (clean, enhanced)
    )
    return one * window, other * window


def _mean_of_lowest(distances: np.ndarray) -> float:
    return float(np.sort(distances)[: round(KEPT * len(distances))].mean())
