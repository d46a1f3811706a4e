"""Short-time spectra, and the base class of networks that enhance speech through them.

A network maps the spectrum of noisy speech to an enhanced spectrum. Level normalisation, lengths, resynthesis and long
recordings are handled here. Shapes: B recordings, T samples, L frames, N bands, R rows of a recurrence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from cslib.config import UserError, require
from cslib.data.manifests import SAMPLE_RATE
from cslib.models.layers.masking import full_lengths, length_mask

COMPRESSION = 0.3  # exponent of magnitudes; loudness grows about as this power of sound pressure
FLOOR = 1e-8  # added to squared magnitudes, whose mean is near 1: bounds the gradients of powers near zero (-80 dB)
SILENCE = 1e-20  # mean squared magnitude; far below one step of a 16-bit sample, and safe to divide by
MASK_LIMIT = 2.0  # largest magnitude of a complex mask: 6 dB, for bands in which noise has cancelled speech

Length = TypeVar("Length", int, Tensor)


@dataclass
class SpectralConfig:
    window: int = 512  # samples of the Hann window, a multiple of hop and of 4
    hop: int = 128  # samples from one frame to the next
    window_seconds: float = 10.0  # longer recordings are enhanced in cross-faded windows of this length

    def __post_init__(self) -> None:
        if self.hop < 1 or self.window % 4 or self.window % self.hop or self.window < 2 * self.hop:
            raise UserError(
                f"network.window is {self.window} and network.hop {self.hop}; the window must be a multiple of 4 and "
                "of the hop, at least twice the hop"
            )
        seconds = self.window_seconds
        require(0.1 <= seconds < math.inf, "network.window_seconds", seconds, "at least 0.1")

    @property
    def bands(self) -> int:
        """N, number of frequency bins."""
        return self.window // 2 + 1


class Enhancer(nn.Module):
    """Noisy audio [B, T] -> enhanced audio [B, T]; a subclass implements `estimate`, from spectrum to spectrum.

    The output has the level of the input, which affects nothing else. Digital silence stays silent.
    """

    causal = False  # whether a frame depends on no later frame; the level is then a running mean

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def window_samples(self) -> int:
        """Longer recordings are enhanced in windows of this length, in samples."""
        return round(self.config.window_seconds * SAMPLE_RATE)

    def estimate(self, spectrum: Tensor, inside: Tensor | None) -> Tensor:
        """Complex spectrum [B, L, N] with a mean squared magnitude of 1 -> enhanced spectrum [B, L, N].

        inside  bool [B, L], frames inside each recording (None: all); the spectrum is zero in the others
        """
        raise NotImplementedError

    def forward(self, noisy: Tensor, lengths: Tensor | None = None) -> Tensor:
        """noisy [B, T] in [-1, 1] at 16 kHz, lengths [B] in samples (None: all full) -> float32 [B, T].

        In eval mode an output depends neither on the padding nor on the other items; it is silent beyond its length.
        """
        window, hop, noisy = self.config.window, self.config.hop, noisy.float()
        inside = beyond = None
        if lengths is not None:
            beyond = ~length_mask(lengths, noisy.shape[1])
            noisy = noisy.masked_fill(beyond, 0.0)
            inside = length_mask(frame_count(lengths, window, hop), frame_count(noisy.shape[1], window, hop))
        spectrum = analyse(noisy, window, hop)
        gains = level_gains(spectrum, inside, self.causal)
        enhanced = self.estimate(spectrum * gains, inside) / gains
        audio = synthesise(enhanced, window, hop, noisy.shape[1])
        return audio if beyond is None else audio.masked_fill(beyond, 0.0)

    @torch.no_grad()
    def enhance(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """audio [B, T], lengths [B] in samples (None: all full) -> float32 [B, T], silent beyond the lengths.

        A recording longer than `window_seconds` is processed window by window: memory does not grow with its length.
        Its windows depend on its own length alone.
        """
        lengths = full_lengths(audio) if lengths is None else lengths
        enhanced, long = torch.zeros_like(audio, dtype=torch.float32), lengths > self.window_samples
        if not long.all():
            longest = int(lengths[~long].max())
            enhanced[~long, :longest] = self(audio[~long, :longest], lengths[~long])
        for item in torch.nonzero(long).flatten().tolist():
            length = int(lengths[item])
            enhanced[item, :length] = torch.cat(list(self.stream([audio[item, :length]], length)))
        return enhanced

    @torch.no_grad()
    def stream(self, pieces: Iterable[Tensor], samples: int) -> Iterator[Tensor]:
        """Consecutive pieces [t] of a recording of `samples` samples -> enhanced pieces, float32, as by `enhance`.

        The windows are evenly spaced and overlap by at least a tenth of their length. Memory holds one window and one
        piece. Raises ValueError when the pieces have fewer samples in total.
        """
        size, pieces = min(samples, self.window_samples), iter(pieces)
        starts = window_starts(samples, size)
        held = total = weight = torch.zeros(0)
        for start, following in zip(starts, [*starts[1:], samples], strict=True):
            while len(held) < size:
                piece = next(pieces, None)
                if piece is None:
                    raise ValueError(f"ends {size - len(held)} samples early")
                held = torch.cat([held.to(piece), piece])
            fade = fades(size, len(starts) > 1, held.device)
            total, weight = (F.pad(values.to(held.device), (0, size - len(values))) for values in (total, weight))
            total, weight = total + fade * self(held[None, :size])[0], weight + fade
            done = following - start
            yield total[:done] / weight[:done]
            held, total, weight = held[done:], total[done:], weight[done:]


def window_starts(samples: int, size: int) -> list[int]:
    """Starts of the windows of `size` samples that cover a recording; a single one when it is not longer."""
    if samples <= size:
        return [0] if samples else []
    fade = size // 10
    count = math.ceil((samples - fade) / (size - fade))
    return [index * (samples - size) // (count - 1) for index in range(count)]


def fades(size: int, overlapping: bool, device: torch.device) -> Tensor:
    """Weights [size] of a window: if windows overlap, they rise over the first tenth and fall over the last one."""
    if not overlapping:
        return torch.ones(size, device=device)
    rise = (torch.arange(size, device=device) + 1) / (size // 10 + 1)
    return torch.minimum(rise, rise.flip(0)).clamp(max=1)


def frame_count(samples: Length, window: int, hop: int) -> Length:
    """Number of frames that contain a sample of the audio, elementwise for a tensor."""
    return (samples + hop - 1) // hop + window // hop - 1


def analyse(audio: Tensor, window: int, hop: int) -> Tensor:
    """Audio [*, T] -> complex spectrum [*, L, N] under a Hann window, in float32.

    Every sample lies in window / hop frames, the first and the last included. Silence appended to a recording therefore
    leaves its frames unchanged.
    """
    samples = audio.shape[-1]
    end = (frame_count(samples, window, hop) - 1) * hop + window
    padded = F.pad(audio.float(), (window - hop, end - (window - hop) - samples))
    return torch.fft.rfft(padded.unfold(-1, window, hop) * torch.hann_window(window, device=audio.device))


def synthesise(spectrum: Tensor, window: int, hop: int, samples: int) -> Tensor:
    """The inverse of `analyse`: complex spectrum [*, L, N] -> audio [*, samples].

    The least-squares solution (Griffin and Lim 1984, equation 6): windowed overlap-add, divided by the sum of the
    squared windows.
    """
    shape, overlap = torch.hann_window(window, device=spectrum.device), window // hop
    pieces = (torch.fft.irfft(spectrum, n=window) * shape).unflatten(-1, (overlap, hop))
    blocks = [F.pad(pieces[..., part, :], (0, 0, part, overlap - 1 - part)) for part in range(overlap)]
    audio = (sum(blocks) / shape.square().view(overlap, hop).sum(0)).flatten(-2)
    return audio[..., window - hop : window - hop + samples]


def level_gains(spectrum: Tensor, inside: Tensor | None, causal: bool) -> Tensor:
    """Gains that bring a spectrum [B, L, N] to a mean squared magnitude of 1: [B, 1, 1]; 1 where all is silent.

    inside  bool [B, L], frames over which the mean is taken (None: all)
    causal  one gain per frame, [B, L, 1], from the mean up to that frame
    """
    power = squared(spectrum).mean(-1)
    if causal:
        mean = power.cumsum(1) / torch.arange(1, power.shape[1] + 1, device=power.device)
    else:
        count = power.shape[1] if inside is None else inside.sum(1, keepdim=True)
        mean = power.sum(1, keepdim=True) / count
    return torch.where(mean > SILENCE, mean.clamp(min=SILENCE).rsqrt(), 1.0)[..., None]


def squared(spectrum: Tensor) -> Tensor:
    """Squared magnitudes; the gradient is 0 where the spectrum is 0 (that of abs() is undefined)."""
    return torch.view_as_real(spectrum).square().sum(-1)


def compressed_magnitude(spectrum: Tensor) -> Tensor:
    """Magnitudes to the power of COMPRESSION, float32; slightly above 0 in silence, where the gradient is 0."""
    return (squared(spectrum) + FLOOR) ** (COMPRESSION / 2)


def compressed(spectrum: Tensor) -> Tensor:
    """The spectrum with magnitudes to the power of COMPRESSION and unchanged phases; 0 stays 0.

    The gradient is at most FLOOR ** ((COMPRESSION - 1) / 2), about 600.
    """
    return spectrum * (squared(spectrum) + FLOOR) ** ((COMPRESSION - 1) / 2)


def expanded(spectrum: Tensor) -> Tensor:
    """The inverse of `compressed`, except for magnitudes below its floor."""
    return spectrum * squared(spectrum) ** ((1 / COMPRESSION - 1) / 2)


def described(spectrum: Tensor) -> Tensor:
    """Complex spectrum [B, L, N] -> [B, 3, L, N]: magnitude, real and imaginary part of the compressed spectrum."""
    parts = torch.view_as_real(compressed(spectrum))
    return torch.stack([compressed_magnitude(spectrum), parts[..., 0], parts[..., 1]], dim=1)


def complex_ratio_mask(values: Tensor) -> Tensor:
    """Unbounded real and imaginary parts [..., 2] -> complex mask [...] with a magnitude below MASK_LIMIT, complex64.

    A tanh bounds the magnitude and keeps the phase. The bound applies in the compressed domain, before expansion: an
    attenuation of 40 dB is then a value of 0.25, easy to reach.
    """
    values, limit = values.float(), MASK_LIMIT**COMPRESSION
    size = (values.square().sum(-1, keepdim=True) + 1e-12).sqrt()
    return expanded(torch.view_as_complex((values * (limit * torch.tanh(size / limit) / size)).contiguous()))


def unit_mask() -> float:
    """The real part that `complex_ratio_mask` maps to a mask of 1, to initialise a network near the identity."""
    limit = MASK_LIMIT**COMPRESSION
    return limit * math.atanh(1 / limit)


def recur(gru: nn.GRU, rows: Tensor, inside: Tensor | None) -> Tensor:
    """Run a batch-first GRU along rows [R, L, D] -> [R, L, H], each row up to the end of its recording.

    inside  bool [B, L] (None: all); R is a multiple of B, and the rows of a recording are adjacent
    """
    if inside is None or not gru.bidirectional:  # padding at the end cannot affect a forward recurrence
        return gru(rows)[0]
    frames = inside.sum(1).repeat_interleave(len(rows) // len(inside)).cpu()
    output, _ = gru(pack_padded_sequence(rows, frames, batch_first=True, enforce_sorted=False))
    return pad_packed_sequence(output, batch_first=True, total_length=rows.shape[1])[0]
