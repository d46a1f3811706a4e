'''What a network is: the interfaces on which the rest of the library relies, and how to add a network.

A network is one file, cslib/models/<name>.py. It defines

Config   a dataclass, the `network:` section of a configuration; the comment beside a field is its help text
build    build(config) -> nn.Module

and `network.name: <name>` selects it; nothing else has to be changed. The methods of the module decide what it can be
used for. Each protocol below names the methods of one use, and `isinstance(network, Staged)` tests for them.

Objectives train speaker encoders through `network(audio)`, audio [B, T] -> embeddings [B, E], with gradients. A network
whose Config is Separative returns (streams [B, C, T], embeddings [B, C, E]) instead. Enhancement networks are trained
through `network(noisy, lengths)`, [B, T] -> [B, T]; they subclass Enhancer of cslib/models/layers/spectra.py, which
handles levels, padding and long recordings, and implement `estimate` alone.

In eval mode the output for an item must depend neither on its padding nor on the other items of the batch. The building
blocks in cslib/models/layers take lengths or masks for that purpose.

A complete network, statistics of log-mel frames with a linear layer::

    """Mean and deviation of log-mel frames, and a linear layer: a network as small as possible."""

    from __future__ import annotations

    from dataclasses import dataclass

    from torch import Tensor, nn

    from cslib.config import require
    from cslib.models.layers.features import LogMel
    from cslib.models.layers.masking import frame_mask
    from cslib.models.layers.pooling import StatisticsPooling


    @dataclass
    class Config:
        num_mels: int = 40  # log-mel bands, 20 to 7600 Hz
        embedding_size: int = 64  # E

        def __post_init__(self) -> None:
            require(self.embedding_size >= 1, "network.embedding_size", self.embedding_size, "at least 1")


    def build(config: Config) -> MelStatistics:
        return MelStatistics(config)


    class MelStatistics(nn.Module):
        """Audio [B, T] in [-1, 1] at 16 kHz -> embeddings [B, E], not normalised."""

        def __init__(self, config: Config) -> None:
            super().__init__()
            self.embedding_size = config.embedding_size
            self.log_mel = LogMel(config.num_mels)
            self.pool = StatisticsPooling(config.num_mels)
            self.project = nn.Linear(self.pool.output_size, config.embedding_size)

        def forward(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
            features = self.log_mel(audio, lengths).transpose(1, 2)  # [B, F, N]
            frames = None if lengths is None else self.log_mel.frames(lengths)
            return self.project(self.pool(features, frame_mask(features, frames, stride=1)))

        def embed(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
            return self(audio, lengths)

With this file as cslib/models/mel_statistics.py, `network: {name: mel_statistics}` in a configuration trains it, and
the commands embed, verify and export take its checkpoints. With `embedding_layers` and `pooling_layer` it would serve
all objectives; see FineTunable and FramePooled.

Shapes: B recordings, T samples at 16 kHz in [-1, 1], E embedding size, C streams, D features, N frames.
'''

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from cslib.models.layers.pooling import Pooling


@runtime_checkable
class SpeakerEncoder(Protocol):
    """A network that maps speech to one vector per recording."""

    embedding_size: int  # E

    def embed(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """audio [B, T], lengths int64 [B] in samples (None: all full) -> embeddings [B, E], of any length."""
        ...


@runtime_checkable
class StreamEncoder(SpeakerEncoder, Protocol):
    """A separating network that embeds every stream, not only the dominant one."""

    def embed_streams(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """audio [B, T], lengths int64 [B] in samples (None: all full) -> embeddings [B, C, E]."""
        ...


@runtime_checkable
class FineTunable(SpeakerEncoder, Protocol):
    """A network whose embedding layers can be trained before all other layers."""

    def embedding_layers(self) -> list[nn.Module]:
        """The layers after pooling, in order: pooled [B, pool.output_size] -> [B, E]."""
        ...


@runtime_checkable
class FramePooled(SpeakerEncoder, Protocol):
    """A network that pools frames over time in a single layer."""

    def pooling_layer(self) -> Pooling:
        """The layer: frames [B, D, N] -> [B, pool.output_size], twice D."""
        ...


@runtime_checkable
class Staged(Protocol):
    """A network whose intermediate outputs serve as a feature space."""

    def stages(self, audio: Tensor) -> list[Tensor]:
        """audio [B, T], all full -> the output of each stage, [B, ...]."""
        ...


@runtime_checkable
class EnhancementNetwork(Protocol):
    """A network that maps noisy speech to clean speech."""

    def enhance(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """audio [B, T], lengths int64 [B] in samples (None: all full) -> float32 [B, T], silent beyond the lengths."""
        ...


@runtime_checkable
class Separative(Protocol):
    """The Config of a network that separates mixtures into `streams` signals."""

    streams: int  # C
