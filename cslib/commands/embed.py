"""An embedding for each recording: a vector that is alike for recordings of one voice.

    python -m cslib embed a.wav b.mp3 --checkpoint exp/mini_csc/checkpoints/final.pt --out embeddings.npz

Recordings may be of any format that soundfile reads (wav, flac, ogg, mp3, ...), of any rate and length; channels are
averaged. One of more than a minute goes through in windows of that length, half overlapping: its embedding is the mean
of theirs, of length 1 each, weighted by the seconds of speech in them. One in which nobody speaks is told and left out.

X.npz holds a vector under each name, as it was given here:

    embeddings = numpy.load("embeddings.npz"); embeddings["a.wav"] @ embeddings["b.mp3"]    # their cosine

X.ark, with X.scp beside it, is Kaldi's format; white space in a name becomes "_" there. All vectors have length 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cslib.config import UserError, positional
from cslib.embeddings import EmbeddingWriter
from cslib.files import writing
from cslib.recordings import RecordingConfig, embed_recording
from cslib.training.checkpoint import load_speaker_encoder
from cslib.training.distributed import device_named


@dataclass(kw_only=True)
class Options(RecordingConfig):
    files: list[Path] = positional()  # recordings
    checkpoint: Path  # final.pt of a speaker encoder
    out: Path | None = None  # X.npz or X.ark to write; without it nothing is written
    device: str = "auto"  # cpu, cuda, cuda:1, ...; auto takes a GPU when there is one


def main(options: Options) -> None:
    write = _writer(options.out)
    repeated = len(options.files) - len(set(options.files))
    if repeated:
        raise UserError(f"{repeated} of the {len(options.files)} recordings are named twice; name each once")
    device = device_named(options.device)
    encoder = load_speaker_encoder(options.checkpoint, device)
    found: dict[str, np.ndarray] = {}
    for path in options.files:
        try:
            embedded = embed_recording(encoder, path, options, device)
        except UserError as problem:  # the others are worth having all the same
            print(problem)
            continue
        found[str(path)] = embedded.vector
        print(f"{path}: {embedded}, embedding of {len(embedded.vector)} numbers")
    if found and options.out:
        write(options.out, found)
        print(f"{options.out}: {len(found):,} embeddings")
    elif found:
        print("nothing was written; --out embeddings.npz or --out embeddings.ark writes them")
    if len(found) < len(options.files):
        raise UserError(f"{len(options.files) - len(found):,} of {len(options.files):,} recordings have no embedding, "
                        "see above")


def _writer(out: Path | None) -> Callable[[Path, dict[str, np.ndarray]], None] | None:
    """What writes embeddings by name to such a file. Raises UserError when it is neither npz nor ark."""
    kinds = {".npz": write_npz, ".ark": write_ark}
    if out and out.suffix not in kinds:
        raise UserError(f"--out {out}: give a name that ends in .npz or .ark")
    return kinds[out.suffix] if out else None


def write_npz(out: Path, embeddings: dict[str, np.ndarray]) -> None:
    with writing(out) as temporary:
        np.savez(temporary, **embeddings)


def write_ark(out: Path, embeddings: dict[str, np.ndarray]) -> None:
    """<out> and the .scp beside it. Raises UserError when two names are the same but for white space."""
    names = [re.sub(r"\s", "_", name) for name in embeddings]
    if len(set(names)) < len(names):
        raise UserError(f"{out}: two recordings have names that differ in white space alone; write an npz")
    writer = EmbeddingWriter(out.with_suffix(""))
    writer.unfinished.unlink(missing_ok=True)  # of a run that was killed; it may have been of other recordings
    with writer:
        writer.add(names, np.stack(list(embeddings.values())))
