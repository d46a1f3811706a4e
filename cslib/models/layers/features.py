"""Log-mel features, sliding mean normalisation and energy VAD as Kaldi defines them, batched, on any device.

Audio is float in [-1, 1] at 16 kHz; frames are 25 ms long, 10 ms apart. With `snip_edges` False there is one
frame for every 10 ms (rounded) and the audio is mirrored at its ends; with True only frames inside the audio count.

A batch of utterances of unequal length is padded at the end with any finite values and comes with `lengths`, int64
[B]: in samples for audio, in frames for features. The frames of an utterance then do not depend on the other items of
the batch; frames past its end are undefined.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from cslib.config import UserError
from cslib.data.manifests import SAMPLE_RATE

FRAME_LENGTH = SAMPLE_RATE * 25 // 1000
FRAME_SHIFT = SAMPLE_RATE * 10 // 1000
FFT_SIZE = 512
PREEMPHASIS = 0.97
LOG_FLOOR = torch.finfo(torch.float32).eps  # Kaldi's, for squares of samples in 16-bit steps

Length = TypeVar("Length", int, Tensor)


def num_frames(num_samples: Length, snip_edges: bool = False) -> Length:
    """Number of frames of `num_samples` samples, elementwise for a tensor; 0 when too short for one frame."""
    if snip_edges:
        frames = (num_samples - FRAME_LENGTH) // FRAME_SHIFT + 1
        return frames * (frames > 0)
    return (num_samples + FRAME_SHIFT // 2) // FRAME_SHIFT


def frame(audio: Tensor, snip_edges: bool = False, lengths: Tensor | None = None) -> Tensor:
    """Cut audio [B, T] into overlapping frames [B, frames, 400], mirrored where each row ends (`lengths` [B]).

    Raises ValueError when T is too short for a frame.
    """
    return with_edges(audio, snip_edges, lengths).unfold(-1, FRAME_LENGTH, FRAME_SHIFT)


def with_edges(audio: Tensor, snip_edges: bool, lengths: Tensor | None) -> Tensor:
    """audio [B, T] -> the samples that its frames cover, without overlap: [B, frames x 160 + 240]."""
    count = num_frames(audio.shape[-1], snip_edges)
    if count == 0:
        raise ValueError(f"audio of {audio.shape[-1]} samples is too short for a frame")
    if snip_edges:
        return audio[..., : (count - 1) * FRAME_SHIFT + FRAME_LENGTH]
    return _mirrored(audio, (FRAME_LENGTH - FRAME_SHIFT) // 2, count, lengths)


def _mirrored(audio: Tensor, before: int, count: int, lengths: Tensor | None) -> Tensor:
    """Audio from `before` samples ahead of its start to the end of its last frame, mirrored at both ends."""
    size = (count - 1) * FRAME_SHIFT + FRAME_LENGTH
    after = size - before - audio.shape[-1]  # from 41 to 200
    if lengths is None and audio.shape[-1] >= max(before, after):  # ten times faster than the gather
        return torch.cat([audio[..., :before].flip(-1), audio, audio[..., audio.shape[-1] - after :].flip(-1)], dim=-1)
    place = torch.arange(-before, size - before, device=audio.device)
    length = audio.shape[-1] if lengths is None else lengths.clamp(min=1)[:, None]
    place = place % (2 * length)
    place = torch.where(place < length, place, 2 * length - 1 - place)
    return audio.index_select(-1, place) if lengths is None else audio.gather(-1, place)


class LogMel(nn.Module):
    """Kaldi's log-mel filter banks (`compute-fbank-feats --dither=0`); differentiable, float32 even under autocast.

    num_mels  number of triangular filters, evenly spaced on the mel scale from low_freq to high_freq (Hz)
    Raises UserError when a filter is so narrow that it contains no bin of the spectrum.
    """

    window: Tensor  # [512], zero-padded to the size of the transform
    filters: Tensor  # [514, num_mels], one row for the square of each real part and one for each imaginary part

    def __init__(
        self, num_mels: int = 80, low_freq: float = 20.0, high_freq: float = 7600.0, snip_edges: bool = False
    ) -> None:
        super().__init__()
        self.snip_edges = snip_edges
        window = nn.functional.pad(povey_window(), (0, FFT_SIZE - FRAME_LENGTH))
        filters = mel_filters(num_mels, low_freq, high_freq).repeat_interleave(2, dim=0)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def frames(self, num_samples: Length) -> Length:
        """Number of frames of `num_samples` samples, elementwise for a tensor."""
        return num_frames(num_samples, self.snip_edges)

    def forward(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """audio [B, T], lengths [B] in samples -> [B, frames, num_mels]."""
        with torch.autocast(audio.device.type, enabled=False):
            audio = with_edges(audio.float() * 32768, self.snip_edges, lengths)
            # Kaldi subtracts each frame's mean and then applies pre-emphasis. Both are linear, so the recording can be
            # pre-emphasised as a whole: only the first sample of a frame differs, and there the window is 0.
            mean = nn.functional.avg_pool1d(audio, FRAME_LENGTH, FRAME_SHIFT)[..., None]
            emphasised = audio[..., 1:] - PREEMPHASIS * audio[..., :-1]
            # Frames are as long as the transform; the samples beyond 25 ms meet the zeros of the window.
            emphasised = nn.functional.pad(emphasised, (1, FFT_SIZE - FRAME_LENGTH))
            frames = emphasised.unfold(-1, FFT_SIZE, FRAME_SHIFT) - (1 - PREEMPHASIS) * mean
            spectrum = torch.fft.rfft(frames.mul_(self.window))
            power = torch.view_as_real(spectrum).flatten(-2).square()
            return (power @ self.filters).clamp(min=LOG_FLOOR).log()


def povey_window() -> Tensor:
    """Kaldi's default window, [400]: a Hann window to the power of 0.85."""
    return torch.hann_window(FRAME_LENGTH, periodic=False, dtype=torch.float64).pow(0.85).float()


def mel_filters(num_mels: int, low_freq: float, high_freq: float) -> Tensor:
    """Triangles of height 1 on the mel scale, [257 spectrum bins, num_mels]."""
    if num_mels < 1 or not 0 <= low_freq < high_freq <= SAMPLE_RATE / 2:
        raise UserError(
            f"{num_mels} mel filters from {low_freq} to {high_freq} Hz are impossible; use at least 1 filter and "
            f"frequencies from 0 to {SAMPLE_RATE // 2} Hz, the lower first"
        )
    edges = torch.linspace(_mel(low_freq), _mel(high_freq), num_mels + 2, dtype=torch.float64)
    frequency = torch.arange(FFT_SIZE // 2 + 1, dtype=torch.float64) * SAMPLE_RATE / FFT_SIZE
    mel = 1127 * torch.log1p(frequency / 700)
    rising = (mel[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel[:, None]) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)
    filters[-1] = 0  # Kaldi leaves out the bin at half the sampling rate
    if (filters.sum(0) == 0).any():
        raise UserError(
            f"{num_mels} mel filters from {low_freq} to {high_freq} Hz are too narrow for a "
            f"spectrum with bins of {SAMPLE_RATE / FFT_SIZE} Hz; use fewer filters"
        )
    return filters.float()


def _mel(frequency: float) -> float:
    return 1127 * math.log1p(frequency / 700)


class SlidingMeanNorm(nn.Module):
    """Subtract the mean of the frames around each frame (Kaldi's `apply-cmvn-sliding --center=true`).

    Near an end the window is shifted inwards, not shortened: every mean is over `window` frames, or over the whole
    utterance where that is shorter.
    """

    def __init__(self, window: int = 301) -> None:
        super().__init__()
        self.window = window

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """features [B, frames, F], lengths [B] in frames (None: all full) -> same shape, zero past a row's length."""
        batch, frames, _ = features.shape
        time = torch.arange(frames, device=features.device).expand(batch, frames)
        length = torch.full_like(time, frames) if lengths is None else lengths[:, None].expand_as(time)
        start = torch.minimum(time - self.window // 2, length - self.window).clamp(min=0)
        end = torch.minimum(start + self.window, length)
        # In float64: differences of long running sums would lose the fourth digit of float32 within minutes of audio.
        sums = nn.functional.pad(features.double().cumsum(1), (0, 0, 1, 0))
        mean = (_rows(sums, end) - _rows(sums, start)) / (end - start).clamp(min=1)[..., None]
        return (features - mean.to(features.dtype)) * (time < length)[..., None]


def _rows(table: Tensor, rows: Tensor) -> Tensor:
    """table [B, N, F], rows [B, M] -> [B, M, F]"""
    return table.gather(1, rows[..., None].expand(-1, -1, table.shape[-1]))


@torch.no_grad()
def energy_vad(
    audio: Tensor,
    lengths: Tensor | None = None,
    *,
    threshold: float = 5.5,
    mean_scale: float = 0.5,
    context: int = 2,
    proportion: float = 0.12,
    snip_edges: bool = False,
) -> Tensor:
    """Energy-based voice activity detection (Kaldi's `compute-vad` with the options of its VoxCeleb recipes).

    A frame is speech when at least the proportion `proportion` of the frames up to `context` frames away has a log
    energy above `threshold + mean_scale x (mean log energy of the utterance)`. See `log_energy`.

    audio [B, T], lengths [B] in samples -> bool [B, frames], False past a row's length.
    """
    energy = log_energy(audio, lengths, snip_edges)
    frames = torch.full_like(energy[:, :1], energy.shape[1], dtype=torch.long)
    if lengths is not None:
        frames = num_frames(lengths, snip_edges)[:, None]
    inside = torch.arange(energy.shape[1], device=audio.device) < frames
    mean = (energy * inside).sum(1, keepdim=True) / frames.clamp(min=1)
    loud = (energy > threshold + mean_scale * mean) & inside
    return inside & (_count_around(loud, context) >= proportion * _count_around(inside, context))


def without_silence(samples: np.ndarray) -> np.ndarray:
    """int16 [T] -> int16 [<= T]: the 10 ms of each speech frame of `energy_vad`, joined; all if none is speech."""
    if not num_frames(len(samples)):
        return samples
    voiced = energy_vad(torch.from_numpy(samples)[None] / 32768)[0].numpy()
    if not voiced.any():
        return samples
    end = min(len(samples) // FRAME_SHIFT, len(voiced) - 1)  # the last frame gets the remaining samples
    kept = samples[: end * FRAME_SHIFT].reshape(end, FRAME_SHIFT)[voiced[:end]].ravel()
    return np.concatenate([kept, samples[end * FRAME_SHIFT :]]) if voiced[end] else kept


def log_energy(audio: Tensor, lengths: Tensor | None = None, snip_edges: bool = False) -> Tensor:
    """Kaldi's raw log energy, its replacement for C0: audio [B, T] -> [B, frames].

    The log of the sum of a frame's squared samples, in 16-bit steps and minus their mean, before pre-emphasis and
    windowing.
    """
    frames = frame(audio.float() * 32768, snip_edges, lengths)
    return (frames - frames.mean(-1, keepdim=True)).square().sum(-1).clamp(min=LOG_FLOOR).log()


def _count_around(flags: Tensor, context: int) -> Tensor:
    """Number of flags set within `context` frames of each frame, [B, frames] -> [B, frames]."""
    return nn.functional.pad(flags.int(), (context, context)).unfold(-1, 2 * context + 1, 1).sum(-1)
