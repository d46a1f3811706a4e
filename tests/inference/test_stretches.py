"""Recordings are cut at pauses, and nothing of them is lost without being counted."""

import numpy as np
import pytest
import soundfile

from cslib.config import UserError
from cslib.data.manifests import Entry
from cslib.inference.stretches import Pieces, StretchConfig, cut_into_pieces, read_part, speech_of, stretches
from tests.inference.bursts import RATE, recording

CONFIG = StretchConfig(pause=0.2, shortest=1.0, longest=4.0)


def mask(text):
    """One character for each 0.1 s; a letter is speech."""
    return np.repeat([letter != "." for letter in text], 10)


@pytest.mark.parametrize(
    "text, found, short",
    [
        ("..", [], []),
        ("aaaaaaaaaaaa", [(0, 120)], []),
        (".aaaaaaaaaaaa.bbbbbbbbbbbb..cccccccccccc", [(10, 260), (280, 400)], []),  # 0.1 s is no pause, 0.2 s is
        ("aaaaa..bbbbbbbbbb", [(70, 170)], [50]),
        ("a" * 90, [(0, 300), (300, 600), (600, 900)], []),  # three equal parts of 3 s
    ],
)
def test_speech_is_cut_at_pauses_and_into_parts_of_bounded_length(text, found, short):
    assert stretches(mask(text), CONFIG) == (found, short)


def test_all_speech_is_in_a_stretch_or_counted_as_too_short():
    rng = np.random.default_rng(1)
    speech = np.repeat(np.arange(600) % 2 == 0, rng.integers(5, 60, 600))
    found, short = stretches(speech, CONFIG)
    assert len(found) > 20 and len(short) > 20 and all(100 <= last - first <= 400 for first, last in found)
    kept = np.zeros(len(speech), bool)
    for first, last in found:
        assert not kept[first:last].any()
        kept[first:last] = True
    left = np.flatnonzero(speech & ~kept)
    runs = np.split(left, np.flatnonzero(np.diff(left) > 20) + 1)
    assert [run[-1] + 1 - run[0] for run in runs] == short


def test_speech_of_a_long_recording_is_that_of_its_bursts(monkeypatch):
    monkeypatch.setattr("cslib.inference.stretches.WINDOW", 4 * RATE)
    samples, reads = recording([0, 1, 0], seed=1), []

    def read(start, frames):
        reads.append(frames)
        return samples[start : start + frames]

    speech = speech_of(read, len(samples))
    assert len(speech) == 1050 and len(reads) == 3 and sum(reads) == len(samples)
    edges = np.flatnonzero(np.diff(np.r_[0, speech, 0].astype(int)))
    np.testing.assert_allclose(edges, [50, 350, 400, 700, 750, 1050], atol=4)
    assert len(speech_of(read, 30)) == 0


def test_pieces_are_the_bursts_and_the_report_adds_up(tmp_path):
    entries = []
    for name, voices in (("a", [0, 1]), ("a-1", [2] * 5), ("hush", [])):
        samples = recording(voices, seed=2, seconds=2.5) if voices else np.zeros(3 * RATE, np.int16)
        soundfile.write(tmp_path / f"{name}.flac", samples, RATE)
        entries.append(Entry(name, tmp_path / f"{name}.flac", len(samples)))
    report = Pieces(CONFIG)
    pieces = list(cut_into_pieces(entries, CONFIG, 1, report))
    assert sorted(piece.path.stem for piece in pieces) == ["a"] * 2 + ["a-1"] * 5
    assert [piece.id for piece in pieces] == sorted(piece.id for piece in pieces)
    for piece in pieces:
        assert piece.id == f"{piece.path.stem}-{piece.start * 100 // RATE:07d}"
        assert abs(piece.num_samples - 2.5 * RATE) < 0.1 * RATE
        assert np.abs(read_part(piece.path, piece.start, piece.num_samples)).mean() > 1000
    assert (report.recordings, report.pieces, report.short) == (3, 7, 0)
    assert report.silent == [(str(tmp_path / "hush.flac"), "no piece of 1 s")]
    assert report.kept == pytest.approx(sum(piece.num_samples for piece in pieces) / RATE)
    assert report.seconds == pytest.approx(6 + 15 + 3)
    assert "cut at pauses of 0.2 s and more into 7 pieces of 1 to 4 s" in str(report)
    assert "1 recordings have no piece" in str(report)


@pytest.mark.parametrize(
    "options, words",
    [({"pause": 0.0}, "pause"), ({"shortest": 0.0}, "shortest"), ({"shortest": 9.0, "longest": 15.0}, "longest")],
)
def test_impossible_lengths_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        StretchConfig(**options)
