"""Recordings of any kind to embeddings: windows, weights, and what is refused."""

import tracemalloc
from dataclasses import astuple

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import resample_poly

from cslib.config import UserError
from cslib.data.manifests import Entry, write_set
from cslib.data.utterances import Utterances
from cslib.evaluation.signs import bandwidth, snr
from cslib.inference.recordings import (
    RecordingConfig,
    embed_recording,
    half_overlapping,
    signs_of_set,
    split_in_halves,
)
from cslib.models.layers.features import energy_vad
from tests.commands.tiny import NETWORKS, RATE, build, noise, record

QUIET = noise(1.0, level=5)
QUIET[0] = 60  # no silence, and nothing that the VAD takes for speech


@pytest.fixture(scope="module")
def network():
    return build("resnet")


def unit(network, samples):
    """[E] of int16 or float samples [n, 1]."""
    audio = samples[:, 0] / np.float32(32768) if samples.dtype == np.int16 else samples[:, 0]
    with torch.inference_mode():
        return F.normalize(network.embed(torch.from_numpy(audio.astype(np.float32))[None])[0], dim=0)


@given(st.integers(1, 300), st.integers(1, 60), st.data())
def test_windows_cover_a_recording_once_and_overlap_by_half_or_more(total, size, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, total), max_size=6)))
    recording = np.arange(total, dtype=np.float32)
    found = list(half_overlapping(np.split(recording, cuts), size))
    starts = [int(window[0]) for window, _ in found]
    assert all(
        np.array_equal(window, recording[start : start + size])
        for start, (window, _) in zip(starts, found, strict=True)
    )
    assert all(len(window) == min(size, total) for window, _ in found)
    hop = size - size // 2
    assert starts[0] == 0 and np.array_equal(np.diff(starts[:-1]), [hop] * (len(starts) - 2))
    assert starts[-1] == max(0, total - size) and (len(starts) == 1 or 0 < starts[-1] - starts[-2] <= hop)
    # What is new in each makes the whole.
    assert np.array_equal(np.concatenate([window[len(window) - new :] for window, new in found]), recording)


def test_recording_of_one_window_is_embedded_whole(network, tmp_path):
    samples = noise(2.5)
    found = embed_recording(network, record(tmp_path / "a.flac", samples), RecordingConfig())
    assert (found.seconds, found.windows) == (2.5, 1) and found.speech_seconds == pytest.approx(2.5, abs=0.02)
    np.testing.assert_allclose(found.vector, unit(network, samples), atol=1e-5)
    assert found.vector.dtype == np.float32 and np.linalg.norm(found.vector) == pytest.approx(1, abs=1e-6)
    assert str(found) == "2.5 s, 2.5 s of speech"


def test_any_rate_and_channels_are_as_if_converted_before(network, tmp_path):
    samples = noise(2.0, rate=44100, channels=2)
    mono = resample_poly(samples.mean(axis=1) / 32768, 160, 441).astype(np.float32)[:, None]
    found = embed_recording(network, record(tmp_path / "a.wav", samples, 44100), RecordingConfig())
    np.testing.assert_allclose(found.vector, unit(network, mono), atol=1e-4)
    assert found.seconds == pytest.approx(2.0, abs=1e-3)


def test_long_recording_is_the_mean_of_its_windows_weighted_by_speech(network, tmp_path):
    parts = [noise(1.2, seed=1), QUIET[: RATE // 2], noise(1.8, seed=2)]
    samples = np.concatenate(parts)  # 3.5 s: windows at 0, 1 and 1.5 s
    found = embed_recording(network, record(tmp_path / "a.wav", samples), RecordingConfig(window_seconds=2.0))
    expected = torch.zeros(8)
    for start in (0, RATE, 3 * RATE // 2):
        window = samples[start : start + 2 * RATE]
        speech = energy_vad(torch.from_numpy(window[:, 0] / np.float32(32768))[None]).sum()
        expected += speech * unit(network, window)
    np.testing.assert_allclose(found.vector, F.normalize(expected, dim=0), atol=1e-5)
    assert found.windows == 3 and 2.9 < found.speech_seconds < 3.2 and str(found).endswith("of speech, 3 windows")


def test_windows_without_speech_count_for_nothing(network, tmp_path):
    speech = noise(2.0)
    padded = np.concatenate([speech, np.tile(QUIET[: RATE // 2], (9, 1))])
    found = embed_recording(network, record(tmp_path / "a.wav", padded), RecordingConfig(window_seconds=2.0))
    assert found.windows == 2  # of five
    assert found.speech_seconds == pytest.approx(2.0, abs=0.1) and found.seconds == 6.5


def test_memory_does_not_grow_with_the_length(tmp_path):
    class Longest:
        embedding_size, samples = 2, 0

        def embed(self, audio):
            self.samples = max(self.samples, audio.shape[1])
            return torch.ones(1, 2)

    def peak(seconds):
        record(tmp_path / "a.wav", np.tile(noise(1.0), (seconds, 1)))
        network = Longest()
        tracemalloc.start()
        found = embed_recording(network, tmp_path / "a.wav", RecordingConfig(window_seconds=10.0))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert network.samples == 10 * RATE and found.windows == seconds // 5 - 1
        return most

    assert peak(360) < 1.2 * peak(90)


@pytest.mark.parametrize(
    "samples, told",
    [
        (np.zeros((2 * RATE, 1), np.int16), "2.0 s of silence"),
        (np.tile(QUIET, (5, 1)), "only 0.0 s of speech in 5.0 s, and 1 s are needed"),
        (noise(0.4), "only 0.4 s of speech in 0.4 s"),
        (np.zeros((0, 1), np.int16), "empty; record it again"),
    ],
)
def test_without_speech_there_is_no_embedding(network, tmp_path, samples, told):
    with pytest.raises(UserError) as error:
        embed_recording(network, record(tmp_path / "a.wav", samples), RecordingConfig())
    assert told in str(error.value) and "a.wav" in str(error.value) and "\n" not in str(error.value)


def test_little_speech_is_taken_where_it_is_let_in(network, tmp_path):
    samples = noise(0.2)
    found = embed_recording(network, record(tmp_path / "a.wav", samples), RecordingConfig(min_speech=0))
    repeated = np.resize(samples[:, 0], RATE // 2)[:, None]  # as the recipes do
    np.testing.assert_allclose(found.vector, unit(network, repeated), atol=1e-5)
    with pytest.raises(UserError, match="no speech in 0.00375 s; give a longer or louder recording$"):
        embed_recording(network, record(tmp_path / "b.wav", noise(0.00375)), RecordingConfig(min_speech=0))


def test_what_cannot_be_read_is_one_sentence(network, tmp_path):
    (tmp_path / "text.wav").write_text("no audio at all")
    (tmp_path / "samples.raw").write_bytes(bytes(32_000))
    record(tmp_path / "cut.flac", noise(3.0))
    data = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    for name, told in (
        ("none.wav", "no such file"),
        (".", "is a folder"),
        ("samples.raw", "raw samples without a header"),
        ("text.wav", "cannot be read as audio"),
        ("cut.flac", "cannot be read as audio"),
    ):
        with pytest.raises(UserError, match=told) as error:
            embed_recording(network, tmp_path / name, RecordingConfig())
        assert "\n" not in str(error.value)


def test_network_that_has_diverged_is_told(tmp_path):
    network = build("resnet", NETWORKS["resnet"])
    network.project[0].weight.data.fill_(torch.nan)
    with pytest.raises(UserError, match="its embedding is not finite"):
        embed_recording(network, record(tmp_path / "a.wav", noise(2.0)), RecordingConfig())


@pytest.mark.parametrize("seconds", [0.5, float("inf"), float("nan")])
def test_windows_have_a_length(seconds):
    with pytest.raises(UserError, match="window-seconds"):
        RecordingConfig(window_seconds=seconds)


def test_signs_are_those_of_the_whole_recording_and_are_measured_on_request_alone(network, tmp_path):
    samples = np.concatenate([noise(1.5, seed=1), noise(1.5, seed=2)])
    path = record(tmp_path / "a.wav", samples)
    assert embed_recording(network, path, RecordingConfig()).signs is None
    found = embed_recording(network, path, RecordingConfig(), with_signs=True)
    audio = torch.from_numpy(samples[:, 0] / np.float32(32768))[None]
    assert found.signs.speech_seconds == found.speech_seconds
    assert found.signs.bandwidth == bandwidth(audio, energy_vad(audio)[0]) and found.signs.snr == snr(audio)
    halves = unit(network, samples[: 3 * RATE // 2]) @ unit(network, samples[3 * RATE // 2 :])
    assert found.signs.halves == pytest.approx(float(halves), abs=0.02)
    np.testing.assert_array_equal(found.vector, embed_recording(network, path, RecordingConfig()).vector)


def test_halves_have_the_same_amount_of_speech():
    samples = np.concatenate([noise(1.0), np.tile(QUIET, (4, 1)), noise(3.0)])
    audio = torch.from_numpy(samples[:, 0] / np.float32(32768))[None]
    first, second = split_in_halves(audio, energy_vad(audio)[0])
    assert first.shape[1] == pytest.approx(6 * RATE, abs=RATE / 20)
    torch.testing.assert_close(torch.cat([first, second], dim=1), audio)


def test_halves_of_a_long_recording_are_of_its_windows(network, tmp_path):
    samples = np.concatenate([noise(2.0, seed=1), noise(2.0, seed=2)])  # windows at 0, 1 and 2 s
    path = record(tmp_path / "a.wav", samples)
    found = embed_recording(network, path, RecordingConfig(window_seconds=2.0), with_signs=True)
    windows = [samples[start * RATE : (start + 2) * RATE] for start in range(3)]
    first, *others = (unit(network, window) for window in windows)
    cosine = torch.cosine_similarity(first, sum(others), dim=0)
    assert found.windows == 3 and found.signs.halves == pytest.approx(float(cosine), abs=1e-6)
    snrs = [snr(torch.from_numpy(window[:, 0] / np.float32(32768))[None]) for window in windows]
    assert found.signs.snr == pytest.approx(np.mean(snrs), abs=0.01)


def test_signs_of_a_set_are_those_of_its_recordings(network, tmp_path):
    files = [record(tmp_path / f"{n}.wav", noise(1.2 + n / 3, seed=n)) for n in range(6)]
    files.append(record(tmp_path / "6.wav", np.concatenate([noise(0.5), np.tile(QUIET, (2, 1))])))  # too little speech
    write_set(tmp_path, [Entry(path.stem, path.name, soundfile.info(path).frames) for path in files])
    found = signs_of_set(network, Utterances.open(tmp_path), np.arange(7), "cpu", batch_seconds=6.0)
    expected = [embed_recording(network, path, RecordingConfig(), with_signs=True).signs for path in files[:6]]
    assert len(found) == 6
    rows = [np.array(sorted(map(astuple, signs))) for signs in (found, expected)]
    np.testing.assert_allclose(*rows, atol=1e-4)
