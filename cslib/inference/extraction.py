"""Extract one embedding per utterance of a set, in batches of similar length."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cslib.checkpoints import load_speaker_encoder
from cslib.config import Part, UserError, require
from cslib.data.batches import batches_by_length
from cslib.data.embeddings import EmbeddingWriter, Origin, is_complete, manifests, merge_parts, objection, part_path
from cslib.data.manifests import SAMPLE_RATE
from cslib.data.utterances import Utterances
from cslib.devices import device_named
from cslib.files import progress
from cslib.models.base import SpeakerEncoder, StreamEncoder

SHORTEST = SAMPLE_RATE // 2  # samples; shorter recordings are repeated, so that strided networks see a few frames
DEFAULTS: dict[str, Any] = {"max_seconds": 60.0, "streams": "dominant"}  # of the options that change embeddings


def audio_batches(
    utterances: Utterances, rows: np.ndarray, batch_seconds: float, max_seconds: float, workers: int
) -> Iterator[tuple[list[str], Tensor, Tensor]]:
    """Yield (ids, audio float32 [B, T] in [-1, 1) padded with zeros, lengths int64 [B] in samples).

    rows            the utterances to read, by number
    batch_seconds   audio per batch, padding included
    max_seconds     of a longer utterance, the middle is used; one shorter than half a second is repeated
    workers         processes that decode; 0 decodes in this one
    """
    longest = int(max_seconds * SAMPLE_RATE)
    lengths = np.clip(np.asarray(utterances.num_samples)[rows], SHORTEST, longest)
    batches = [rows[batch] for batch in batches_by_length(lengths, int(batch_seconds * SAMPLE_RATE))]
    dataset = _PaddedBatches(utterances, batches, longest)
    for batch, (audio, lengths) in zip(batches, DataLoader(dataset, batch_size=None, num_workers=workers), strict=True):
        yield utterances.ids(batch), audio.float() / 32768, lengths


@torch.inference_mode()
def extract(
    embed: Callable[[Tensor, Tensor], Tensor],
    utterances: Utterances,
    rows: np.ndarray,
    writer: EmbeddingWriter,
    device: torch.device | str,
    batch_seconds: float,
    max_seconds: float,
    workers: int,
) -> float:
    """Write the embeddings of those `rows` that `writer` lacks; return the seconds of audio embedded.

    embed   (audio [B, T] in [-1, 1), lengths [B] in samples) -> [B, E] or [B, C, E]
    Other arguments are those of `audio_batches`.
    """
    done = writer.done
    rows = np.array([row for row, name in zip(rows, utterances.ids(rows), strict=True) if name not in done], dtype=int)
    samples = 0
    nothing: tuple[int, ...] = ()
    with progress(nothing, "extracting embeddings", total=len(rows)) as bar:
        for ids, audio, lengths in audio_batches(utterances, rows, batch_seconds, max_seconds, workers):
            writer.add(ids, embed(audio.to(device), lengths.to(device)))
            samples += int(lengths.sum())
            bar.update(len(ids))
    return samples / SAMPLE_RATE


def extract_to(
    out: Path,
    origin: Origin,
    embed: Callable[[Tensor, Tensor], Tensor],
    utterances: Utterances,
    rows: np.ndarray,
    **how: Any,
) -> None:
    """`extract` into <out>.ark and <out>.scp; print how many embeddings there are and how fast it went.

    how   device, batch_seconds, max_seconds and workers of `extract`
    """
    if out.with_name(f"{out.name}.scp").exists():
        print(f"{out}: extracted again, as {objection(out, origin)}")
    start = time.monotonic()
    with EmbeddingWriter(out, origin, expected=len(rows)) as writer:
        seconds = extract(embed, utterances, rows, writer, **how)
    speed = seconds / (time.monotonic() - start)
    print(f"{out}: {len(writer.done):,} of {len(rows):,} utterances, {speed:,.0f} x real time")


def extract_set(
    checkpoint: Path,
    folder: Path,
    out: Path,
    *,
    batch_seconds: float = 120.0,
    max_seconds: float = DEFAULTS["max_seconds"],
    streams: str = DEFAULTS["streams"],
    device: str = "auto",
    workers: int = 2,
    part: Part | None = None,
) -> None:
    """Write the embeddings of a set to <out>.ark and <out>.scp.

    An interrupted call continues where it stopped. A finished one does nothing, unless the checkpoint, the set,
    `streams` or `max_seconds` has changed since. Whichever part ends last joins all of them.

    checkpoint     a final.pt or encoder-*.pt
    folder         data/<corpus>/<set>
    batch_seconds  audio per batch, padding included
    max_seconds    of a longer utterance, the middle is used
    streams        "dominant": one embedding per utterance; "all": one per separated stream, [C, E]
    workers        processes that decode audio; 0 decodes in this one
    part           the share of the utterances to embed (None: all of them)
    Raises UserError for a checkpoint of another kind and for streams that the network does not have.
    """
    part = part or Part()
    utterances = Utterances.open(folder)
    options = {"max_seconds": max_seconds, "streams": streams}
    origin = Origin([checkpoint, *manifests(folder)], options, DEFAULTS, utterances.digest())
    here = part_path(out, part)
    if is_complete(out, origin) or is_complete(here, origin):
        print(f"{here}: done before, nothing to do")
    else:
        on = device_named(device)
        extract_to(
            here,
            origin,
            embedding_function(load_speaker_encoder(checkpoint, on), streams),
            utterances,
            np.arange(len(utterances))[part.slice(len(utterances))],
            device=on,
            batch_seconds=batch_seconds,
            max_seconds=max_seconds,
            workers=workers,
        )
    if part.count > 1 and merge_parts(out, part.count, origin):
        print(f"{out}.scp: joined from {part.count} parts")


def embedding_function(network: SpeakerEncoder, streams: str) -> Callable[[Tensor, Tensor], Tensor]:
    """(audio, lengths) -> [B, E], or [B, C, E] of all streams.

    Raises UserError for an unknown choice, and for all streams of a network that separates nothing.
    """
    require(streams in ("dominant", "all"), "streams", streams, "dominant or all")
    if streams == "dominant":
        return network.embed
    if not isinstance(network, StreamEncoder):
        raise UserError("streams is all, but this network makes one embedding per utterance; choose dominant")
    return network.embed_streams


class _PaddedBatches(Dataset):
    def __init__(self, utterances: Utterances, batches: list[np.ndarray], longest: int) -> None:
        self.utterances, self.batches, self.longest = utterances, batches, longest

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        audio = [self._read(row) for row in self.batches[index]]
        lengths = torch.tensor([len(samples) for samples in audio])
        padded = np.zeros((len(audio), int(lengths.max())), dtype=np.int16)
        for row, samples in zip(padded, audio, strict=True):
            row[: len(samples)] = samples
        return torch.from_numpy(padded), lengths

    def _read(self, row: int) -> np.ndarray:
        total = int(self.utterances.num_samples[row])
        start = max(0, (total - self.longest) // 2)
        samples = self.utterances.read(row, start, min(total, self.longest))
        return np.resize(samples, SHORTEST) if len(samples) < SHORTEST else samples
