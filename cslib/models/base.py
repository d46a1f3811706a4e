"""What a network is: the interfaces that the rest of the library relies on.

A file cslib/models/<name>.py defines a dataclass `Config` and `build(config) -> nn.Module`; the network has the methods
of one or more of these protocols. `isinstance(network, Staged)` tells whether it does.

Shapes: B recordings, T samples at 16 kHz in [-1, 1], E embedding size, C streams.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class SpeakerEncoder(Protocol):
    """Speech to one vector per recording."""

    embedding_size: int

    def embed(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """audio [B, T], lengths [B] in samples (None: all full) -> embeddings [B, E].

        In eval mode an item's embedding depends neither on its padding nor on its neighbours.
        """
        ...


@runtime_checkable
class StreamEncoder(SpeakerEncoder, Protocol):
    """A separating network that embeds every stream, not only the dominant one."""

    def embed_streams(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """audio [B, T], lengths [B] in samples (None: all full) -> embeddings [B, C, E]."""
        ...


@runtime_checkable
class Staged(Protocol):
    """A network whose intermediate outputs serve as a feature space."""

    def stages(self, audio: Tensor) -> list[Tensor]:
        """audio [B, T] -> the output of each stage, [B, ...]."""
        ...


@runtime_checkable
class FineTunable(Protocol):
    """A network that names the layers which form the embedding, so that they can be trained before the others."""

    def embedding_layers(self) -> list[nn.Module]: ...


@runtime_checkable
class FramePooled(Protocol):
    """A network that pools frames over time with the module `pool`: frames [B, D, N] -> [B, pool.output_size]."""

    pool: Any


@runtime_checkable
class Separative(Protocol):
    """The config of a network that separates a mixture into `streams` signals, and embeds each of them."""

    streams: int


@runtime_checkable
class EnhancementNetwork(Protocol):
    """Noisy speech to clean speech."""

    def enhance(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """audio [B, T], lengths [B] in samples (None: all full) -> float32 [B, T], silent beyond the lengths."""
        ...
