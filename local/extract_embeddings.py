"""Extract one embedding per utterance with a trained network.

    python local/extract_embeddings.py --checkpoint exp/mini_csc/checkpoints/final.pt \\
        --cuts data/mini/test --out exp/mini_csc/embeddings/test

Writes <out>.ark and <out>.scp, and <out>.json, which notes what they were made from. An interrupted run continues where
it stopped. A finished one does nothing unless the checkpoint, the manifest, --streams or --max-seconds has changed.
With --part i/n, whichever part ends last joins them into <out>.scp.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cslib.config import Part, run
from cslib.inference.extraction import extract_set


@dataclass
class Options:
    checkpoint: Path  # final.pt of a training
    cuts: Path  # data/<corpus>/<set>
    out: Path  # makes <out>.ark, <out>.scp and <out>.json
    batch_seconds: float = 120.0  # seconds of audio per batch, padding included; lower it when memory is short
    max_seconds: float = 60.0  # of a longer utterance, the middle is used
    streams: str = "dominant"  # dominant: one embedding | all: one of each separated stream, [streams, embedding]
    device: str = "auto"  # cpu, cuda, cuda:1, ...; auto uses a GPU if there is one
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
