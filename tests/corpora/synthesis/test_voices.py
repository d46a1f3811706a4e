import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cslib.corpora.synthesis.voices import ACCENTS, Synthesiser, draw_voice

TEXT = "The old captain carried a yellow bicycle across the valley."


def say(folder: Path, sexes: str, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    voices = {f"v{i}": draw_voice(rng, sex) for i, sex in enumerate(sexes)}
    synthesiser = Synthesiser(voices, folder)
    return [synthesiser.say(name, TEXT) for name in voices]


def in_fresh_process(function, *arguments):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory) -> list[np.ndarray]:
    return in_fresh_process(say, tmp_path_factory.mktemp("espeak"), "ffffmmmm")


def pitch(speech: np.ndarray, rate: int = 22050) -> float:
    """Median over frames of the autocorrelation's highest peak between 60 and 400 Hz."""
    frames = np.lib.stride_tricks.sliding_window_view(speech.astype(float), 2048)[::1024] * np.hanning(2048)
    correlation = np.fft.irfft(np.abs(np.fft.rfft(frames, 4096)) ** 2)[:, : rate // 60]
    lags = np.argmax(correlation[:, rate // 400 :], axis=1) + rate // 400
    loud = correlation[:, 0] > 0.1 * correlation[:, 0].max()
    return float(rate / np.median(lags[loud]))


def test_women_speak_higher_than_men(spoken):
    pitches = [pitch(speech) for speech in spoken]
    assert np.median(pitches[:4]) > 1.25 * np.median(pitches[4:])
    assert all(75 < value < 350 for value in pitches)


def test_voices_differ_in_spectrum(spoken):
    power = np.array([np.abs(np.fft.rfft(speech, 1 << 17)[1:]) ** 2 for speech in spoken])
    spectra = np.log(power + 1).reshape(8, 64, -1).mean(axis=2)
    shapes = spectra - spectra.mean(axis=1, keepdims=True)
    distances = np.linalg.norm(shapes[:, None] - shapes, axis=-1)[np.triu_indices(8, 1)]
    assert distances.min() > 1.0


def test_nothing_clips(spoken):
    assert all(1000 < np.abs(speech.astype(int)).max() < 32767 for speech in spoken)


def test_a_fresh_process_says_the_same(spoken, tmp_path):
    again = in_fresh_process(say, tmp_path, "ffffmmmm")
    assert all(np.array_equal(one, other) for one, other in zip(spoken, again, strict=True))


def count_accents(folder: Path) -> int:
    voice = draw_voice(np.random.default_rng(0), "f")
    synthesiser = Synthesiser({accent: replace(voice, accent=accent) for accent in ACCENTS}, folder)
    return len({synthesiser.say(accent, TEXT).tobytes() for accent in ACCENTS})


def test_every_accent_is_one_the_synthesiser_has(tmp_path):
    assert in_fresh_process(count_accents, tmp_path) == len(ACCENTS)


def test_voice_variant_has_the_nine_formants():
    lines = draw_voice(np.random.default_rng(1), "m").variant("x").splitlines()
    assert lines[0] == "language variant"
    assert [line.split()[1] for line in lines if line.startswith("formant")] == list("012345678")
