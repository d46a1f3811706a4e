"""One recording of any kind, however long, to one embedding; one in which nobody speaks is refused.

A recording of up to 60 s is embedded whole, as the recipes do. A longer one goes through in windows of that length,
each overlapping the next by half, and its embedding is the mean of the windows' embeddings, all brought to length 1
first and weighted by the seconds of speech in each; windows without speech count for nothing. Little more than a window
and a half is held at a time.

Speech is what Kaldi's energy VAD takes for it: it tells silence from sound, and loud noise passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cslib.config import UserError
from cslib.corpora.audio_files import Checks, Unreadable, reading
from cslib.data.manifests import SAMPLE_RATE
from cslib.inference.extraction import SHORTEST
from cslib.models.layers.features import FRAME_SHIFT, energy_vad, num_frames

FRAMES_PER_SECOND = SAMPLE_RATE // FRAME_SHIFT


@dataclass
class RecordingConfig:
    window_seconds: float = 60.0  # longer recordings are embedded in windows of this length, half overlapping
    min_speech: float = 1.0  # seconds of speech that there must be; with less, any voice looks like any other

    def __post_init__(self) -> None:
        if not 1.0 <= self.window_seconds < float("inf"):
            raise UserError(f"--window-seconds {self.window_seconds:g}: give 1 or more")
        if not 0.0 <= self.min_speech < float("inf"):
            raise UserError(f"--min-speech {self.min_speech:g}: give 0 or more")


@dataclass(frozen=True)
class EmbeddedRecording:
    """vector is float32 [E], of length 1: the dot product of two is their cosine."""

    vector: np.ndarray
    seconds: float
    speech_seconds: float
    windows: int  # that were embedded

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, {self.speech_seconds:.1f} s of speech" + (
            f", {self.windows} windows" if self.windows > 1 else ""
        )


@torch.inference_mode()
def embed_recording(encoder: nn.Module, path: Path, config: RecordingConfig, device: str = "cpu") -> EmbeddedRecording:
    """The embedding of a file.

    encoder   has embed(audio [1, T]) -> [1, E]
    Raises UserError when the file cannot be read, is silent, or has less speech than there must be; and when the
    embedding is not finite.
    """
    total = torch.zeros(encoder.embedding_size)
    samples = frames = count = 0
    peak = 0.0
    for window, new in _read_windows(path, round(config.window_seconds * SAMPLE_RATE)):
        voiced = energy_vad(window)[0] if num_frames(window.shape[1]) else torch.zeros(0)
        samples, peak = samples + new, max(peak, float(window.abs().max()))
        frames += int(voiced[len(voiced) - num_frames(new) :].sum())
        if voiced.any():
            total += voiced.sum() * _unit_embedding(encoder, window.to(device))
            count += 1
    seconds, speech = samples / SAMPLE_RATE, frames / FRAMES_PER_SECOND
    _refuse_without_speech(path, seconds, speech, peak, config.min_speech)
    if not torch.isfinite(total).all():
        raise UserError(
            f"{path}: its embedding is not finite; the training has diverged (see log.jsonl), take an "
            "earlier checkpoint"
        )
    return EmbeddedRecording(F.normalize(total, dim=0).numpy(), seconds, speech, count)


def half_overlapping(blocks: Iterable[np.ndarray], size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Blocks of any sizes to windows [size], each beginning half of it after the one before; the last one ends where
    the recording ends. One that is no longer than that is a window by itself.

    Yields (window, how many samples at its end no window before it had). How long the recording is need not be known.
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
    """(float32 [1, T], new samples) of a file."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file" + ("; it is a folder, give the files in it" * path.is_dir()))
    if not path.stat().st_size:
        raise UserError(f"{path}: it is empty; record it again")
    try:
        with reading(path) as (_, blocks):
            for window, new in half_overlapping(blocks, size):
                yield torch.from_numpy(window)[None], new
    except Unreadable as error:
        raise UserError(
            f"{path}: cannot be read as audio ({error}); make or copy it again, or convert it to wav"
        ) from None


def _unit_embedding(encoder: nn.Module, window: Tensor) -> Tensor:
    """[1, T] -> [E] of length 1, on the CPU."""
    if window.shape[1] < SHORTEST:  # as in the recipes
        window = window.repeat(1, -(-SHORTEST // window.shape[1]))[:, :SHORTEST]
    return F.normalize(encoder.embed(window)[0].float(), dim=0).cpu()


def _refuse_without_speech(path: Path, seconds: float, speech: float, peak: float, least: float) -> None:
    if not seconds:
        raise UserError(f"{path}: it is empty; record it again")
    if peak < Checks.silence_peak:
        raise UserError(f"{path}: {seconds:.1f} s of silence; check the microphone, or give another recording")
    if not speech and least <= 1 / FRAMES_PER_SECOND:
        raise UserError(f"{path}: there is no speech in its {seconds:.3g} s; give a longer or a louder recording")
    if speech < max(least, 1 / FRAMES_PER_SECOND):
        raise UserError(
            f"{path}: {speech:.1f} s of speech in {seconds:.1f} s are too little, {least:g} s are needed; "
            "give a longer or a louder recording, or lower --min-speech"
        )
