"""Embed one recording, of any format and length; recordings without speech are refused.

A recording of up to 60 s is embedded as a whole. A longer one is embedded in windows of that length, half overlapping;
its embedding is the mean of the windows' embeddings of length 1, weighted by the seconds of speech in each window.
Memory holds about a window and a half at a time.

Speech is detected by Kaldi's energy VAD, which separates sound from silence: loud noise counts as speech.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cslib.config import UserError, require
from cslib.corpora.audio_files import Checks, Unreadable, reading
from cslib.data.manifests import SAMPLE_RATE
from cslib.data.utterances import Utterances
from cslib.evaluation.signs import Signs, bandwidth, snr
from cslib.inference.extraction import DEFAULTS, SHORTEST, audio_batches
from cslib.models.base import SpeakerEncoder
from cslib.models.layers.features import FRAME_SHIFT, energy_vad, num_frames

FRAMES_PER_SECOND = SAMPLE_RATE // FRAME_SHIFT


@dataclass
class RecordingConfig:
    window_seconds: float = 60.0  # longer recordings are embedded in windows of this length, half overlapping
    min_speech: float = 1.0  # seconds of speech required; with less, embeddings do not tell voices apart

    def __post_init__(self) -> None:
        require(1.0 <= self.window_seconds < float("inf"), "--window-seconds", self.window_seconds, "at least 1")
        require(0.0 <= self.min_speech < float("inf"), "--min-speech", self.min_speech, "at least 0")


@dataclass(frozen=True)
class EmbeddedRecording:
    """An embedding, and what it was made from.

    vector   float32 [E] of length 1, so that the dot product of two is their cosine
    windows  number of windows that were embedded
    signs    what the recording is like; None if that was not asked for
    """

    vector: np.ndarray
    seconds: float
    speech_seconds: float
    windows: int
    signs: Signs | None = None

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, {self.speech_seconds:.1f} s of speech" + (
            f", {self.windows} windows" if self.windows > 1 else ""
        )


@torch.inference_mode()
def embed_recording(
    encoder: SpeakerEncoder,
    path: Path,
    config: RecordingConfig,
    device: torch.device | str = "cpu",
    with_signs: bool = False,
) -> EmbeddedRecording:
    """Embed a file; `with_signs`, also measure what the recording is like, which embeds it twice.

    Raises UserError when the file cannot be read, is silent or has too little speech, or the embedding is not finite.
    """
    total = torch.zeros(encoder.embedding_size)
    samples = frames = count = 0
    peak = 0.0
    measured = _SignsOfWindows(encoder, device)
    for window, new in _read_windows(path, round(config.window_seconds * SAMPLE_RATE)):
        voiced = energy_vad(window)[0] if num_frames(window.shape[1]) else torch.zeros(0)
        samples, peak = samples + new, max(peak, float(window.abs().max()))
        frames += int(voiced[len(voiced) - num_frames(new) :].sum())
        if voiced.any():
            embedding = _unit_embedding(encoder, window.to(device))
            total += voiced.sum() * embedding
            count += 1
            if with_signs:
                measured.add(window, voiced, embedding)
    seconds, speech = samples / SAMPLE_RATE, frames / FRAMES_PER_SECOND
    _refuse_without_speech(path, seconds, speech, peak, config.min_speech)
    if not torch.isfinite(total).all():
        raise UserError(
            f"{path}: its embedding is not finite, so the training has diverged (see its log.jsonl); use an earlier "
            "checkpoint"
        )
    signs = measured.signs(speech) if with_signs else None
    return EmbeddedRecording(F.normalize(total, dim=0).numpy(), seconds, speech, count, signs)


class _SignsOfWindows:
    """The signs of a recording from its windows with speech, of which the last alone is kept.

    Bandwidth and SNR are means over the windows, weighted by their speech. The halves of a recording of one window are
    embedded by themselves; those of a longer one are the first and the second half of its windows.
    """

    def __init__(self, encoder: SpeakerEncoder, device: torch.device | str) -> None:
        self.encoder, self.device = encoder, device
        self.window, self.voiced = torch.zeros(1, 0), torch.zeros(0)
        self.measured: list[tuple[float, float, float]] = []  # frames of speech, bandwidth and SNR of each window
        self.embeddings: list[Tensor] = []  # [E], as long as the window has frames of speech

    def add(self, window: Tensor, voiced: Tensor, embedding: Tensor) -> None:
        """window [1, T], voiced bool [frames], embedding [E] of length 1."""
        self.window, self.voiced = window, voiced
        self.measured.append((float(voiced.sum()), bandwidth(window, voiced), snr(window)))
        self.embeddings.append(voiced.sum() * embedding)

    def signs(self, speech_seconds: float) -> Signs:
        weights, bandwidths, snrs = np.array(self.measured).T
        middle = len(self.embeddings) // 2
        if middle:
            embeddings = torch.stack(self.embeddings)
            first, second = embeddings[:middle].sum(0), embeddings[middle:].sum(0)
        else:
            first, second = self._embedded_halves()
        return Signs(
            speech_seconds,
            float(np.average(bandwidths, weights=weights)),
            float(np.average(snrs, weights=weights)),
            float(F.cosine_similarity(first, second, dim=0)),
        )

    def _embedded_halves(self) -> list[Tensor]:
        return [
            _unit_embedding(self.encoder, half.to(self.device)) for half in split_in_halves(self.window, self.voiced)
        ]


def split_in_halves(audio: Tensor, voiced: Tensor) -> tuple[Tensor, Tensor]:
    """Split audio [1, T] where half of its speech frames, voiced bool [frames], have passed."""
    passed = voiced.cumsum(0)
    at = int(torch.searchsorted(passed, (passed[-1] + 1) // 2)) + 1
    at = min(max(at * FRAME_SHIFT, 1), audio.shape[1] - 1)
    return audio[:, :at], audio[:, at:]


@torch.inference_mode()
def signs_of_set(
    encoder: SpeakerEncoder,
    utterances: Utterances,
    rows: np.ndarray,
    device: torch.device | str,
    batch_seconds: float = 120.0,
    workers: int = 0,
) -> list[Signs]:
    """The signs of utterances, by number, without those that have less speech than `embed_recording` asks for.

    The arguments are those of `audio_batches`; the halves of a batch are embedded together.
    """
    found = []
    for _, audio, lengths in audio_batches(utterances, rows, batch_seconds, DEFAULTS["max_seconds"], workers):
        voiced = energy_vad(audio, lengths)
        kept = [row for row in range(len(audio)) if voiced[row].sum() >= RecordingConfig.min_speech * FRAMES_PER_SECOND]
        if not kept:
            continue
        windows = [audio[row : row + 1, : lengths[row]] for row in kept]
        speech = [voiced[row, : num_frames(int(lengths[row]))] for row in kept]
        halves = [half for pair in map(split_in_halves, windows, speech) for half in pair]
        first, second = _embed_together(encoder, halves, device).view(len(kept), 2, -1).unbind(1)
        cosines = F.cosine_similarity(first, second)
        found += [
            Signs(float(frames.sum()) / FRAMES_PER_SECOND, bandwidth(window, frames), snr(window), float(cosine))
            for window, frames, cosine in zip(windows, speech, cosines, strict=True)
        ]
    return found


def _embed_together(encoder: SpeakerEncoder, parts: list[Tensor], device: torch.device | str) -> Tensor:
    """Parts, each [1, T], -> float32 [parts, E] on the CPU."""
    signals = [_long_enough(part)[0] for part in parts]
    lengths = torch.tensor([len(signal) for signal in signals])
    padded = torch.nn.utils.rnn.pad_sequence(signals, batch_first=True)
    return encoder.embed(padded.to(device), lengths.to(device)).float().cpu()


def half_overlapping(blocks: Iterable[np.ndarray], size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Cut blocks of any sizes into windows [size] that overlap by half. The last window ends with the recording; a
    recording of up to `size` samples is one window.

    Yields (window, number of samples at its end that no earlier window had). The length of the recording need not be
    known.
    """
    hop, held, new = size - size // 2, np.zeros(0, np.float32), size
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) >= size + hop:
            yield held[:size], new
            held, new = held[hop:], hop
    if len(held) > size:
        yield held[:size], new
        yield held[-size:], len(held) - size
    elif len(held):
        yield held, min(new, len(held))


def _read_windows(path: Path, size: int) -> Iterator[tuple[Tensor, int]]:
    """Yield the windows of a file, float32 [1, T], each with its number of new samples."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the files in it")
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    if not path.stat().st_size:
        raise UserError(f"{path}: empty; record it again")
    try:
        with reading(path) as (_, blocks):
            for window, new in half_overlapping(blocks, size):
                yield torch.from_numpy(window)[None], new
    except Unreadable as error:
        raise UserError(
            f"{path}: cannot be read as audio ({error}); make or copy it again, or convert it to wav"
        ) from None


def _unit_embedding(encoder: SpeakerEncoder, window: Tensor) -> Tensor:
    """[1, T] -> [E] of length 1, on the CPU."""
    return F.normalize(encoder.embed(_long_enough(window))[0].float(), dim=0).cpu()


def _long_enough(window: Tensor) -> Tensor:
    """[1, T], repeated if it is short, as in extraction.py."""
    if window.shape[1] >= SHORTEST:
        return window
    return window.repeat(1, -(-SHORTEST // window.shape[1]))[:, :SHORTEST]


def _refuse_without_speech(path: Path, seconds: float, speech: float, peak: float, least: float) -> None:
    if not seconds:
        raise UserError(f"{path}: empty; record it again")
    if peak < Checks.silence_peak:
        raise UserError(f"{path}: {seconds:.1f} s of silence; check the microphone, or give another recording")
    if not speech and least <= 1 / FRAMES_PER_SECOND:
        raise UserError(f"{path}: no speech in {seconds:.3g} s; give a longer or louder recording")
    if speech < max(least, 1 / FRAMES_PER_SECOND):
        raise UserError(
            f"{path}: only {speech:.1f} s of speech in {seconds:.1f} s, and {least:g} s are needed; give a longer or "
            "louder recording, or lower --min-speech"
        )
