"""Recordings in which several people speak are found without labels, and those of one speaker are left alone."""

import numpy as np
import pytest
import soundfile

from cslib.data.manifests import Entry, write_set
from cslib.data.utterances import Utterances
from cslib.inference.several_speakers import (
    FEWEST_RECORDINGS,
    SUSPICIOUS,
    across_two_groups,
    between_recordings,
    judge,
    score,
)
from tests.inference.bursts import RATE, recording


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_mean_cosine_between_recordings_equals_that_of_all_pairs():
    rng = np.random.default_rng(1)
    vectors = [unit(rng.standard_normal((count, 5))) for count in (3, 1, 4)]
    pairs = [
        a @ b for i, of in enumerate(vectors) for a in of for j, other in enumerate(vectors) for b in other if i != j
    ]
    assert between_recordings(vectors) == pytest.approx(np.mean(pairs))


def test_the_two_groups_are_the_two_voices():
    rng = np.random.default_rng(1)
    centres = np.eye(6)[[0, 0, 0, 3, 3, 0, 3, 0]]
    vectors = unit(centres + 0.05 * rng.standard_normal((8, 6)))
    of_first = centres[:, 0] == 1
    assert across_two_groups(vectors) == pytest.approx((vectors[of_first] @ vectors[~of_first].T).mean())
    assert across_two_groups(np.ones((4, 4)) / 2) == 1.0


def drawn(voices, rng, size=20):
    """Statistics of stretches of these voices, each a point in space."""
    places = np.random.default_rng(5).standard_normal((60, size)) * 3
    return places[voices] + rng.standard_normal((len(voices), size))


@pytest.mark.parametrize("of_several", [0, 5, 30])
def test_score_does_not_depend_on_how_many_recordings_have_several_speakers(of_several):
    rng = np.random.default_rng(1)
    voices = [[n] * 12 for n in range(30 - of_several)]
    voices += [[n] * 6 + [n + 30] * 6 for n in range(of_several)]
    scores = score([drawn(one, rng) for one in voices], [np.arange(12)] * 30)
    right = [(value >= SUSPICIOUS) == (len(set(one)) > 1) for value, one in zip(scores, voices, strict=True)]
    assert np.mean(right) >= 0.9  # the voices are random: a few pairs are alike


def test_too_little_speech_or_too_few_recordings_are_not_judged():
    rng = np.random.default_rng(1)
    voices = [[n] * (3 if n % 2 else 8) for n in range(FEWEST_RECORDINGS)]
    statistics, places = [drawn(one, rng) for one in voices], [np.arange(len(one)) for one in voices]
    assert [value is None for value in score(statistics, places)] == [bool(n % 2) for n in range(len(voices))]
    assert score(statistics[1:], places[1:]) == [None] * (FEWEST_RECORDINGS - 1)
    assert score([np.zeros((0, 20))] * 12, [np.arange(0)] * 12) == [None] * 12


@pytest.fixture
def folder(tmp_path):
    """16 recordings of one voice, 4 of two, and a short one."""
    entries = []
    for n in range(21):
        voices = [n] * 6 if n < 16 else [n, n + 20] * 3 if n < 20 else [n]
        samples = recording(voices, seed=n, seconds=2.0)
        path = tmp_path / f"{n:02d}.flac"
        soundfile.write(path, samples, RATE)
        entries.append(Entry(path.stem, path, len(samples)))
    write_set(tmp_path / "set", entries)
    return tmp_path / "set"


def test_recordings_of_two_voices_are_found(folder):
    found = judge(Utterances.open(folder), nj=1)
    assert len(found.scores) == 20 and found.too_short == 1
    order = sorted(found.scores, key=found.scores.get, reverse=True)
    assert set(order[:4]) == {"16", "17", "18", "19"}
    assert found.suspicious == order[: len(found.suspicious)] and len(found.suspicious) in (3, 4)


def test_a_long_recording_is_judged_by_some_of_its_stretches(folder, monkeypatch):
    whole = judge(Utterances.open(folder), nj=1)
    monkeypatch.setattr("cslib.inference.several_speakers.MOST", 4)
    some = judge(Utterances.open(folder), nj=1)
    assert some.scores.keys() == whole.scores.keys() and some.scores != whole.scores
