"""Short-time spectra, and what the networks that enhance speech through them have in common.

A network gives a mask or a spectrum for the frames it is shown; levels, lengths, the way back to audio and long
recordings are settled here once. Shapes: B recordings, T samples, L frames, N bands, R rows of a recurrence.
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

from cslib.config import UserError
from cslib.data.manifests import SAMPLE_RATE

COMPRESSION = 0.3  # exponent of magnitudes, about what loudness is to pressure
FLOOR = 1e-8  # of squared magnitudes whose mean is near 1: 80 dB below it, roots and powers lose their steepness
SILENCE = 1e-20  # mean squared magnitude; far below one step of a 16-bit sample, and safe to divide by
MASK_LIMIT = 2.0  # no complex mask amplifies by more: 6 dB, for bands where noise has cancelled speech

Length = TypeVar("Length", int, Tensor)


@dataclass
class SpectralConfig:
    window: int = 512  # samples of the Hann window, a multiple of hop and of 4
    hop: int = 128  # samples from one frame to the next
    window_seconds: float = 10.0  # longer recordings are enhanced in windows of this length, cross-faded

    def __post_init__(self) -> None:
        if self.hop < 1 or self.window % 4 or self.window % self.hop or self.window < 2 * self.hop:
            raise UserError(
                f"network.window: {self.window} will not do; give a multiple of 4 that is a multiple of "
                f"network.hop {self.hop} as well, twice it or more"
            )
        if not 0.1 <= self.window_seconds < math.inf:
            raise UserError(f"network.window_seconds: {self.window_seconds:g} will not do; give 0.1 or more")

    @property
    def bands(self) -> int:
        return self.window // 2 + 1


class Enhancer(nn.Module):
    """Noisy audio [B, T] -> enhanced audio [B, T]. A network says in `estimate` what becomes of the spectrum.

    The level of the input comes back in the output and matters to nothing else. Digital silence stays silent.
    """

    causal = False

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def window_samples(self) -> int:
        """Longer recordings are enhanced in windows of this length."""
        return round(self.config.window_seconds * SAMPLE_RATE)

    @property
    def look_ahead(self) -> int | None:
        """How many samples after it a sample of the output depends on, at most; None: on all there are."""
        return self.config.window - 1 if self.causal else None

    def estimate(self, spectrum: Tensor, inside: Tensor | None) -> Tensor:
        """Complex spectrum [B, L, N] at a mean squared magnitude of 1 -> enhanced spectrum [B, L, N].

        inside  bool [B, L], which frames belong to the recording; None: all. The others are zeros on entry.
        """
        raise NotImplementedError

    def forward(self, noisy: Tensor, lengths: Tensor | None = None) -> Tensor:
        """noisy [B, T] in [-1, 1], lengths [B] in samples (all full when None) -> float32 [B, T].

        In eval mode neither what lies beyond an item's length nor its neighbours change anything inside it; the
        output is silent there.
        """
        window, hop, noisy = self.config.window, self.config.hop, noisy.float()
        inside = beyond = None
        if lengths is not None:
            beyond = torch.arange(noisy.shape[1], device=noisy.device) >= lengths[:, None]
            noisy = noisy.masked_fill(beyond, 0.0)
            frames = torch.arange(frame_count(noisy.shape[1], window, hop), device=noisy.device)
            inside = frames < frame_count(lengths, window, hop)[:, None]
        spectrum = analyse(noisy, window, hop)
        gains = level_gains(spectrum, inside, self.causal)
        enhanced = self.estimate(spectrum * gains, inside) / gains
        audio = synthesise(enhanced, window, hop, noisy.shape[1])
        return audio if beyond is None else audio.masked_fill(beyond, 0.0)

    @torch.no_grad()
    def enhance(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """audio [B, T], lengths [B] -> float32 [B, T], silent beyond the lengths.

        Recordings of more than `window_seconds` go through in windows, one at a time: memory does not grow with
        their length. How an item is cut into windows depends on its own length alone.
        """
        if lengths is None:
            lengths = torch.full((len(audio),), audio.shape[1], device=audio.device)
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
        """Pieces [t] of a recording of `samples` samples, in order -> float32 pieces of it enhanced, as by `enhance`.

        The windows are evenly spaced and overlap by a tenth or more; no more of the recording than a window and a
        piece are held. Raises ValueError when the pieces hold fewer samples.
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
    """Where the windows of `size` samples begin that cover a recording; one when it is no longer than that."""
    if samples <= size:
        return [0] if samples else []
    fade = size // 10
    count = math.ceil((samples - fade) / (size - fade))
    return [index * (samples - size) // (count - 1) for index in range(count)]


def fades(size: int, overlapping: bool, device: torch.device) -> Tensor:
    """Weights [size] of a window: rising over its first tenth and falling over its last, where it has neighbours."""
    if not overlapping:
        return torch.ones(size, device=device)
    rise = (torch.arange(size, device=device) + 1) / (size // 10 + 1)
    return torch.minimum(rise, rise.flip(0)).clamp(max=1)


def frame_count(samples: Length, window: int, hop: int) -> Length:
    """How many frames have a sample of the audio in them, elementwise for a tensor."""
    return (samples + hop - 1) // hop + window // hop - 1


def analyse(audio: Tensor, window: int, hop: int) -> Tensor:
    """Audio [*, T] -> complex spectrum [*, L, N] under a Hann window, in float32.

    Every sample lies in window / hop frames, also the first and the last: the frames of a recording are then
    the same whatever silence is put after it.
    """
    samples = audio.shape[-1]
    end = (frame_count(samples, window, hop) - 1) * hop + window
    padded = F.pad(audio.float(), (window - hop, end - (window - hop) - samples))
    return torch.fft.rfft(padded.unfold(-1, window, hop) * torch.hann_window(window, device=audio.device))


def synthesise(spectrum: Tensor, window: int, hop: int, samples: int) -> Tensor:
    """The audio [*, samples] whose frames are nearest to a spectrum [*, L, N]; it undoes `analyse`.

    Least squares (Griffin and Lim 1984, equation 6): overlap-add under the window again, over its summed squares.
    """
    shape, overlap = torch.hann_window(window, device=spectrum.device), window // hop
    pieces = (torch.fft.irfft(spectrum, n=window) * shape).unflatten(-1, (overlap, hop))
    blocks = sum(F.pad(pieces[..., part, :], (0, 0, part, overlap - 1 - part)) for part in range(overlap))
    audio = (blocks / shape.square().view(overlap, hop).sum(0)).flatten(-2)
    return audio[..., window - hop : window - hop + samples]


def level_gains(spectrum: Tensor, inside: Tensor | None, causal: bool) -> Tensor:
    """What brings a spectrum [B, L, N] to a mean squared magnitude of 1: [B, 1, 1]; 1 where all is silent.

    causal  of each frame, by the mean up to it: [B, L, 1]
    inside  bool [B, L], the frames that count
    """
    power = squared(spectrum).mean(-1)
    if causal:
        mean = power.cumsum(1) / torch.arange(1, power.shape[1] + 1, device=power.device)
    else:
        count = power.shape[1] if inside is None else inside.sum(1, keepdim=True)
        mean = power.sum(1, keepdim=True) / count
    return torch.where(mean > SILENCE, mean.clamp(min=SILENCE).rsqrt(), 1.0)[..., None]


def squared(spectrum: Tensor) -> Tensor:
    """Squared magnitudes, with a gradient of zero, not an undefined one, where the spectrum is zero."""
    return torch.view_as_real(spectrum).square().sum(-1)


def compressed_magnitude(spectrum: Tensor) -> Tensor:
    """Magnitudes to the power of COMPRESSION, float32; not quite zero in silence, where the gradient is zero."""
    return (squared(spectrum) + FLOOR) ** (COMPRESSION / 2)


def compressed(spectrum: Tensor) -> Tensor:
    """The complex spectrum of the same phases with magnitudes to the power of COMPRESSION; zero stays zero.

    Its gradient is at most FLOOR ** ((COMPRESSION - 1) / 2), about 600.
    """
    return spectrum * (squared(spectrum) + FLOOR) ** ((COMPRESSION - 1) / 2)


def expanded(spectrum: Tensor) -> Tensor:
    """Undo `compressed`, apart from magnitudes below its floor."""
    return spectrum * squared(spectrum) ** ((1 / COMPRESSION - 1) / 2)


def described(spectrum: Tensor) -> Tensor:
    """Complex spectrum [B, L, N] -> [B, 3, L, N]: compressed magnitudes, and real and imaginary parts of the same."""
    parts = torch.view_as_real(compressed(spectrum))
    return torch.stack([compressed_magnitude(spectrum), parts[..., 0], parts[..., 1]], dim=1)


def complex_ratio_mask(values: Tensor) -> Tensor:
    """Real and imaginary parts [..., 2] without bound -> complex mask [...] of a magnitude below MASK_LIMIT, float32.

    A tanh bounds the magnitude, and the phase stays. It is bounded in the compressed domain and then expanded, so
    that an attenuation of 40 dB is a value of 0.25, within easy reach.
    """
    values, limit = values.float(), MASK_LIMIT**COMPRESSION
    size = (values.square().sum(-1, keepdim=True) + 1e-12).sqrt()
    return expanded(torch.view_as_complex((values * (limit * torch.tanh(size / limit) / size)).contiguous()))


def unit_mask() -> float:
    """The real part that `complex_ratio_mask` turns into a mask of 1: where learning starts, from the input itself."""
    limit = MASK_LIMIT**COMPRESSION
    return limit * math.atanh(1 / limit)


def recur(gru: nn.GRU, rows: Tensor, inside: Tensor | None) -> Tensor:
    """Run a batch-first GRU along rows [R, L, D] -> [R, L, H], each to the end of its recording only.

    inside  bool [B, L]; R is a multiple of B, with the rows of a recording one after the other
    """
    if inside is None or not gru.bidirectional:  # forwards, a padded end changes nothing before it
        return gru(rows)[0]
    frames = inside.sum(1).repeat_interleave(len(rows) // len(inside)).cpu()
    output, _ = gru(pack_padded_sequence(rows, frames, batch_first=True, enforce_sorted=False))
    return pad_packed_sequence(output, batch_first=True, total_length=rows.shape[1])[0]
