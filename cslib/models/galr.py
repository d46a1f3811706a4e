"""The multi-task separative encoder: from a mixture to separated streams and one speaker embedding per stream.

Blocks alternate a recurrent layer along short segments with self-attention across segments (GALR, globally attentive,
locally recurrent; Lam et al. 2021, arXiv 2101.05014). A shared trunk feeds a speech branch and a speaker branch. Both
are split into streams by a 1x1 convolution, so that stream c is the same source in both (CSC, arXiv 2103.00816; the
paper does not describe the split into branches, which is a reconstruction).

Shapes: B mixtures, T samples, L frames, N bands, D features, K frames per segment, S segments, C streams, E embedding
size. Segments are kept as [B, S, K, D]: the recurrence, the norms and the projections then need no transposition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cslib.config import UserError, require
from cslib.data.manifests import SAMPLE_RATE
from cslib.models.layers.filterbanks import Filterbank, FourierFilterbank, LearntFilterbank
from cslib.models.layers.levels import at_level_inside
from cslib.models.layers.masking import full_lengths, length_mask

LONG_WINDOW = 4 * SAMPLE_RATE  # samples of the windows in which long recordings are embedded
CHOICES = {
    "filterbank": ("learnt", "fourier"),
    "mask": ("relu", "sigmoid"),
    "compression": ("none", "log", "centred"),
    "speaker_streams": ("split", "masked"),
    "pooling": ("mean", "statistics", "attentive"),
    "embedding_norm": ("none", "batch"),
    "residual": ("standard", "released"),
}


@dataclass
class Config:
    streams: int = 2  # C, number of separated sources
    window: int = 16  # samples of an encoder window; the hop is half of it. A larger window is cheaper and coarser
    filterbank: str = "learnt"  # learnt: rectified filters, as in GALR | fourier: fixed, masks on magnitudes
    filters: int = 128  # number of learnt filters; fourier has window / 2 + 1 bands
    mask: str = "relu"  # relu: unbounded, as in GALR | sigmoid: at most 1, and near 1 at the start of training
    compression: str = "none"  # of the blocks' input: none | log | centred: log minus its mean over the recording
    features: int = 128  # D, width of every block
    hidden: int = 128  # H, LSTM units per direction
    segment: int = 64  # K, frames in a segment, about sqrt(2 L); segments overlap by half
    low_dim: int = 8  # Q, frames to which each segment is projected before the attention
    heads: int = 8  # J, attention heads
    dropout: float = 0.1  # of the attention's output
    shared_blocks: int = 2  # blocks of the trunk, shared by both tasks
    speech_blocks: int = 4  # blocks of the speech branch, on top of the trunk: separation
    speaker_blocks: int = 2  # blocks of the speaker branch, on top of the trunk: embeddings
    embedding_size: int = 128  # E
    speaker_streams: str = "split"  # split: by a 1x1 layer | masked: by masks from the speech branch
    pooling: str = "mean"  # mean | statistics | attentive: over the frames of the speaker branch
    embedding_norm: str = "none"  # none | batch: centre and scale each dimension before the length normalisation
    residual: str = "standard"  # standard: LN(x + attention(x)) | released: LN(attention(x)), as in the authors' code
    max_seconds: float = 20.0  # longer recordings are embedded in half-overlapping windows of 4 s, and averaged

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            value = getattr(self, name)
            require(value in known, f"network.{name}", value, f"one of {', '.join(known)}")
        for name in ("window", "segment", "features"):
            value = getattr(self, name)
            require(value % 2 == 0, f"network.{name}", value, "an even number")
        if self.features % self.heads:
            raise UserError(
                f"network.heads is {self.heads}; it must be a divisor of network.features, which is {self.features}"
            )


def build(config: Config) -> SeparativeEncoder:
    return SeparativeEncoder(config)


class SeparativeEncoder(nn.Module):
    """Mixture [B, T] in [-1, 1] at 16 kHz -> streams [B, C, T] and unit-length speaker embeddings [B, C, E]."""

    embedding_norm: nn.Module

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.embedding_size = config, config.embedding_size
        width, streams = config.features, config.streams
        self.filterbank: Filterbank = (
            FourierFilterbank(config.window)
            if config.filterbank == "fourier"
            else LearntFilterbank(config.filters, config.window)
        )
        bands = self.filterbank.bands
        self.bottleneck = nn.Linear(bands, width, bias=False)
        self.compress = Compression(bands, config.compression)
        self.shared = nn.ModuleList(GalrBlock(config) for _ in range(config.shared_blocks))
        self.speech = nn.ModuleList(GalrBlock(config) for _ in range(config.speech_blocks))
        self.speaker = nn.ModuleList(GalrBlock(config) for _ in range(config.speaker_blocks))
        self.speech_split = nn.Sequential(nn.PReLU(), nn.Linear(width, streams * width))
        self.gate_tanh, self.gate_sigmoid = nn.Linear(width, width), nn.Linear(width, width)
        self.to_mask = nn.Linear(width, bands, bias=config.mask == "sigmoid")
        if config.mask == "sigmoid":
            # Training then starts near the mixture itself.
            nn.init.ones_(self.to_mask.bias)
        if config.speaker_streams == "split":
            self.speaker_split = nn.Sequential(nn.PReLU(), nn.Linear(width, streams * config.embedding_size))
        else:
            self.to_speaker_mask = nn.Linear(width, bands, bias=False)
            self.stream_in = nn.Linear(bands, width)
            self.stream_out = nn.Sequential(
                nn.PReLU(), nn.Linear(width, width), nn.PReLU(), nn.Linear(width, config.embedding_size)
            )
        self.pool = StreamPooling(config.embedding_size, config.pooling)
        self.embedding_norm = nn.Identity()
        if config.embedding_norm == "batch":
            self.embedding_norm = nn.BatchNorm1d(streams * config.embedding_size, affine=False)

    def forward(self, mixture: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """mixture [B, T], lengths [B] in samples (None: all full) -> streams [B, C, T], embeddings [B, C, E].

        Norms, attention and pooling leave the padding out, and the streams are silent there. Neither the padding nor
        the level of the mixture affects the result.
        """
        lengths = full_lengths(mixture) if lengths is None else lengths
        inside = length_mask(lengths, mixture.shape[1])
        mixture = at_level_inside(mixture * inside, lengths)
        frames, carrier, mask = self._analyse(mixture, lengths)
        described = self.bottleneck(self.compress(frames, mask).to(frames.dtype)) * mask[..., None]
        segments = segment(described, self.config.segment)
        segment_mask = segment(mask[..., None], self.config.segment)
        for block in self.shared:
            segments = block(segments, segment_mask)
        gated = self._split(segments, segment_mask, frames.shape[1])  # [B, L, C, D]
        masks = F.relu(self.to_mask(gated)) if self.config.mask == "relu" else torch.sigmoid(self.to_mask(gated))
        hop = self.config.window // 2
        streams = self.filterbank.synthesise(masks, carrier)[..., hop : hop + mixture.shape[1]]
        return streams * inside[:, None], self._embed(segments, segment_mask, gated, frames, mask)

    def stages(self, audio: Tensor) -> list[Tensor]:
        """audio [B, T] -> filter outputs [B, L, N] as the blocks see them, then outputs [B, S, K, D] of the first and
        the last shared block and of the last block of the speaker branch, those of them that exist.
        """
        lengths = full_lengths(audio)
        frames, _, mask = self._analyse(at_level_inside(audio, lengths), lengths)
        seen = self.compress(frames, mask)
        segments, segment_mask = (
            segment(values, self.config.segment) for values in (self.bottleneck(seen.to(frames.dtype)), mask[..., None])
        )
        outputs = []
        for block in (*self.shared, *self.speaker):
            segments = block(segments, segment_mask)
            outputs.append(segments)
        kept = sorted({0, self.config.shared_blocks - 1, len(outputs) - 1} & set(range(len(outputs))))
        return [seen, *(outputs[index] for index in kept)]

    @torch.no_grad()
    def embed_streams(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """audio [B, T], lengths [B] in samples (None: all full) -> unit-length embeddings [B, C, E] of all streams.

        A long recording is embedded whole: which stream is which speaker may change from one window to the next.
        """
        return self(audio, lengths)[1]

    @torch.no_grad()
    def embed(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """audio [B, T], lengths [B] in samples (None: all full) -> embeddings [B, E] of the stream with more energy.

        SI-SNR leaves the scale of a stream open. Its energy is therefore measured after a least-squares fit of the
        streams to the input.
        """
        lengths = full_lengths(audio) if lengths is None else lengths
        embeddings = audio.new_zeros(len(audio), self.embedding_size, dtype=torch.float32)
        long = lengths > self.config.max_seconds * SAMPLE_RATE
        for items, embed in ((~long, self._embed_dominant), (long, self._embed_long)):
            if items.any():
                embeddings[items] = embed(audio[items, : lengths[items].max()], lengths[items])
        return embeddings

    def _analyse(self, mixture: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frames [B, L, N], what `synthesise` masks, and which frames lie inside their recording, 1 or 0 [B, L]."""
        window, hop, samples = self.config.window, self.config.window // 2, mixture.shape[1]
        count = (samples + hop - 1) // hop + 1  # every sample lies in two windows
        frames, carrier = self.filterbank.analyse(F.pad(mixture, (hop, (count - 1) * hop + window - hop - samples)))
        inside = length_mask(torch.div(lengths + hop - 1, hop, rounding_mode="floor") + 1, count)
        return frames, carrier, inside.to(frames.dtype)

    def _split(self, segments: Tensor, segment_mask: Tensor, frames: int) -> Tensor:
        """The features from which the masks of each stream are made, [B, frames, C, D]."""
        for block in self.speech:
            segments = block(segments, segment_mask)
        joined = overlap_add(self.speech_split(segments), frames).unflatten(-1, (self.config.streams, -1))
        return torch.tanh(self.gate_tanh(joined)) * torch.sigmoid(self.gate_sigmoid(joined))

    def _embed(self, segments: Tensor, segment_mask: Tensor, gated: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        for block in self.speaker:
            segments = block(segments, segment_mask)
        if self.config.speaker_streams == "split":
            values = self.speaker_split(segments).unflatten(-1, (self.config.streams, -1))  # [B, S, K, C, E]
            pooled = self.pool(values.flatten(1, 2), segment_mask.flatten(1, 2)).float()
        else:
            masked = F.relu(self.to_speaker_mask(gated)) * frames[:, :, None]  # [B, L, C, N]
            shared = overlap_add(segments, frames.shape[1])[:, :, None]  # [B, L, 1, D]
            values = self.stream_out(shared + self.stream_in(self.compress(masked, mask).to(masked.dtype)))
            pooled = self.pool(values, mask[..., None]).float()
        return F.normalize(self.embedding_norm(pooled.flatten(1)).view_as(pooled), dim=-1)

    def _embed_dominant(self, audio: Tensor, lengths: Tensor) -> Tensor:
        separated, embeddings = self(audio, lengths)
        strongest = fitted_energy(separated.float(), audio.float()).argmax(1)
        return embeddings[torch.arange(len(audio), device=audio.device), strongest]

    def _embed_long(self, audio: Tensor, lengths: Tensor) -> Tensor:
        size, hop = LONG_WINDOW, LONG_WINDOW // 2
        sums = audio.new_zeros(len(audio), self.embedding_size, dtype=torch.float32)
        for start in range(0, audio.shape[1] - hop, hop):
            # Windows that are mostly padding are skipped, except the first one of a recording.
            items = torch.nonzero((lengths > start + hop) | (start == 0)).flatten()
            if len(items):
                piece = audio[items, start : start + size]
                inside = (lengths[items] - start).clamp(max=piece.shape[1])
                sums[items] += self._embed_dominant(piece, inside)
        return F.normalize(sums, dim=-1)


class GalrBlock(nn.Module):
    """Recurrence along the frames of each segment, then attention across the segments: [B, S, K, D] -> same."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, hidden = config.features, config.hidden
        self.released_residual = config.residual == "released"
        self.lstm = nn.LSTM(width, hidden, batch_first=True, bidirectional=True)
        self.start = nn.Parameter(torch.zeros(2, hidden))  # learnt (h0, c0), both directions
        self.local_projection = nn.Linear(2 * hidden, width)
        self.local_norm = GlobalNorm(width)
        self.reduce = nn.Linear(config.segment, config.low_dim)
        self.attention_norm_in, self.attention_norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, config.heads, dropout=config.dropout, batch_first=True)
        self.dropout = nn.Dropout(config.dropout)
        self.expand = nn.Linear(config.low_dim, config.segment)
        self.global_norm = GlobalNorm(width)

    def forward(self, segments: Tensor, mask: Tensor) -> Tensor:
        """segments [B, S, K, D], mask [B, S, K, 1] (1 = inside the recording)."""
        segments = segments + self.local_norm(self._local(segments), mask)
        return segments + self.global_norm(self._global(segments, mask), mask)

    def _local(self, segments: Tensor) -> Tensor:
        rows = segments.flatten(0, 1)  # [B S, K, D]
        start = self.start.to(rows.dtype)[:, None, None].expand(2, 2, rows.shape[0], -1).contiguous()
        output, _ = self.lstm(rows, (start[0], start[1]))
        return self.local_projection(output).unflatten(0, segments.shape[:2])

    def _global(self, segments: Tensor, mask: Tensor) -> Tensor:
        reduced = self.reduce(segments.transpose(2, 3)).permute(0, 3, 1, 2)  # [B, Q, S, D]
        rows = self.attention_norm_in(reduced) + sinusoids(reduced.shape[2], reduced.shape[3], reduced)
        outside = (mask.amax(dim=(2, 3)) == 0).repeat_interleave(rows.shape[1], 0)  # [B Q, S]
        rows = rows.flatten(0, 1)
        attended, _ = self.attention(rows, rows, rows, key_padding_mask=outside, need_weights=False)
        carried = attended if self.released_residual else rows
        rows = self.attention_norm_out(carried + self.dropout(attended)).unflatten(0, reduced.shape[:2])
        return self.expand(rows.permute(0, 2, 3, 1)).transpose(2, 3)  # [B, S, K, D]


class GlobalNorm(nn.Module):
    """Normalise each item over segments, frames and features together, without the padding; affine per feature."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width)), eps

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        values, mask = values.float(), mask.float()
        count = mask.sum(dim=(1, 2, 3), keepdim=True) * values.shape[-1]
        mean = (values * mask).sum(dim=(1, 2, 3), keepdim=True) / count
        centred = (values - mean) * mask
        variance = centred.square().sum(dim=(1, 2, 3), keepdim=True) / count
        return centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias * mask


class Compression(nn.Module):
    """Filter outputs [B, L, ..., N] -> input of the blocks; mask [B, L], 1 inside the recording.

    none     unchanged
    log      logarithm minus a learnt offset per filter; flat below about -60 dBFS
    centred  logarithm minus its mean over the recording: removes the frequency response of the microphone, by which
             crops of one recording could otherwise be matched
    """

    def __init__(self, filters: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        if kind == "log":
            self.offset = nn.Parameter(torch.zeros(filters))

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        if self.kind == "none":
            return frames
        values = torch.log1p(1000 * frames.float()) / math.log(1000)
        if self.kind == "log":
            return values - self.offset
        inside = mask.float().view(*mask.shape, *[1] * (frames.dim() - 2))
        return values - (values * inside).sum(1, keepdim=True) / inside.sum(1, keepdim=True)


class StreamPooling(nn.Module):
    """Values of every stream [B, L, C, E], mask [B, L, 1] -> one vector per stream, float32 [B, C, E]."""

    def __init__(self, size: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        if kind == "attentive":
            self.score = nn.Sequential(nn.Linear(size, size), nn.Tanh(), nn.Linear(size, size))
        self.output = nn.Linear(size if kind == "mean" else 2 * size, size)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        values, mask = values.float(), mask.float()[..., None]
        if self.kind == "attentive":
            weights = torch.softmax(self.score(values).masked_fill(mask == 0, -math.inf), dim=1)
        else:
            weights = mask / mask.sum(1, keepdim=True)
        mean = (weights * values).sum(1)
        if self.kind == "mean":
            return self.output(mean)
        variance = (weights * (values - mean[:, None]).square()).sum(1)
        return self.output(torch.cat([mean, torch.sqrt(variance + 1e-6)], dim=-1))


def segment(frames: Tensor, size: int) -> Tensor:
    """[B, L, D] -> half-overlapping segments [B, S, size, D]; every frame lies in exactly two of them."""
    hop = size // 2
    blocks = F.pad(frames, (0, 0, hop, hop + -frames.shape[1] % hop)).unflatten(1, (-1, hop))
    return torch.cat([blocks[:, :-1], blocks[:, 1:]], dim=2)


def overlap_add(segments: Tensor, frames: int) -> Tensor:
    """[B, S, K, D] -> [B, frames, D]: the inverse of `segment` up to a factor of 2."""
    hop = segments.shape[2] // 2
    first, second = F.pad(segments[:, :, :hop], (0, 0, 0, 0, 0, 1)), F.pad(segments[:, :, hop:], (0, 0, 0, 0, 1, 0))
    return (first + second).flatten(1, 2)[:, hop : hop + frames]


def sinusoids(length: int, width: int, like: Tensor) -> Tensor:
    """Position encodings [length, width] (Vaswani et al. 2017), on the device of `like`."""
    rates = torch.exp(torch.arange(0, width, 2, device=like.device) * (-math.log(10000.0) / width))
    angles = torch.arange(length, device=like.device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def fitted_energy(streams: Tensor, mixture: Tensor) -> Tensor:
    """Energy of each stream [B, C] after a least-squares fit of the scaled streams [B, C, T] to the mixture [B, T]."""
    gram = streams @ streams.transpose(1, 2)
    # The ridge keeps the system solvable when streams are equal or silent.
    ridge = torch.diag_embed(1e-4 * gram.diagonal(dim1=1, dim2=2) + 1e-8)
    gains = torch.linalg.solve(gram + ridge, streams @ mixture[..., None])[..., 0]
    return gains.square() * gram.diagonal(dim1=1, dim2=2)
