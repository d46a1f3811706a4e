"""Extract one embedding per utterance with a trained network.

    python local/extract_embeddings.py --checkpoint exp/mini_csc/checkpoints/last.pt \\
        --cuts data/mini/test --out exp/mini_csc/embeddings/test

An interrupted run goes on where it stopped; a finished one does nothing, unless the checkpoint or the
manifest has changed since. With --part i/n, whichever part ends last joins them into <out>.scp.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cslib.config import Part, run
from cslib.inference.extraction import extract_set


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
    extract_set(
        options.checkpoint,
        options.cuts,
        options.out,
        batch_seconds=options.batch_seconds,
        max_seconds=options.max_seconds,
        streams=options.streams,
        device=options.device,
        workers=options.workers,
        part=options.part,
    )


if __name__ == "__main__":
    run(main, Options)
