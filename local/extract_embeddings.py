"""Extract one embedding per utterance with a trained network.

    python local/extract_embeddings.py --checkpoint exp/mini_csc/checkpoints/last.pt \\
        --cuts data/mini/test --out exp/mini_csc/embeddings/test

An interrupted run goes on where it stopped; a finished one does nothing, unless the checkpoint or the
manifest has changed since. With --part i/n, whichever part ends last joins them into <out>.scp.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from cslib.checkpoints import load_encoder
from cslib.config import Part, UserError, run
from cslib.data.embeddings import is_complete, manifests, merge_parts, part_path
from cslib.data.utterances import Utterances
from cslib.devices import device_named
from cslib.inference.extraction import extract_to


@dataclass
class Options:
    checkpoint: Path  # what train.py wrote
    cuts: Path  # data/<set>
    out: Path  # makes <out>.ark and <out>.scp
    batch_seconds: float = 120.0  # audio per batch, padding included; lower it when memory is short
    max_seconds: float = 60.0  # of a longer utterance the middle is taken
    streams: str = "dominant"  # "all" keeps every separated stream of a separative network: [streams, embedding]
    device: str = "auto"  # cpu, cuda, cuda:1, ...; auto takes a GPU when there is one
    workers: int = 2  # processes that decode audio; 0 decodes in this one
    part: Part = field(default_factory=Part)  # "3/40": the third of forty equal shares


def main(options: Options) -> None:
    utterances = Utterances.open(options.cuts)
    rows = np.arange(len(utterances))[options.part.slice(len(utterances))]
    out = part_path(options.out, options.part)
    sources = [options.checkpoint, *manifests(options.cuts)]
    if is_complete(options.out, sources) or is_complete(out, sources):
        print(f"{out}: done before, nothing to do")
    else:
        extract_rows(options, utterances, rows, out, sources)
    if options.part.count > 1 and merge_parts(options.out, options.part.count, sources):
        print(f"{options.out}.scp: joined from {options.part.count} parts")


def extract_rows(options: Options, utterances: Utterances, rows: np.ndarray, out: Path, sources: list[Path]) -> None:
    device = device_named(options.device)
    embed = embedding_function(load_encoder(options.checkpoint, device), options.streams)
    extract_to(
        out,
        sources,
        embed,
        utterances,
        rows,
        device=device,
        batch_seconds=options.batch_seconds,
        max_seconds=options.max_seconds,
        workers=options.workers,
    )


def embedding_function(encoder: nn.Module, streams: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The network's embed(audio, lengths), with every stream when asked for.

    Raises UserError for an unknown choice, and for a network that separates nothing.
    """
    if streams == "dominant":
        return encoder.embed
    if streams != "all":
        raise UserError(f"--streams {streams}: it is either dominant or all")
    if "streams" not in inspect.signature(encoder.embed).parameters:
        raise UserError("--streams all: this network makes one embedding per utterance; leave the option out")
    return lambda audio, lengths: encoder.embed(audio, lengths, streams="all")


if __name__ == "__main__":
    run(main, Options)
