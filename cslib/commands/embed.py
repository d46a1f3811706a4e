"""An embedding for each recording: a vector that is alike for recordings of one voice.

    python -m cslib embed a.wav b.mp3 --checkpoint exp/mini_csc/checkpoints/final.pt --out embeddings.npz

Recordings may be of any format that soundfile reads (wav, flac, ogg, mp3, ...), of any rate and length; channels are
averaged. One of more than a minute goes through in windows of that length, half overlapping: its embedding is the mean
of theirs, of length 1 each, weighted by the seconds of speech in them. A silent one is told and left out. Whatever is
loud counts as speech: noise or music without a voice gets an embedding too, which means nothing.

X.npz holds a vector under each name, as it was given here:

    embeddings = numpy.load("embeddings.npz"); embeddings["a.wav"] @ embeddings["b.mp3"]    # their cosine

X.ark, with X.scp beside it, is Kaldi's format; white space in a name becomes "_" there. All vectors have length 1.

They are written at the end, all at once; after Ctrl-C nothing is, and the same command begins anew.
"""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cslib.checkpoints import load_speaker_encoder
from cslib.config import UserError, positional
from cslib.data.embeddings import EmbeddingWriter
from cslib.devices import device_named
from cslib.files import printable, refuse_unwritable, writing
from cslib.inference.recordings import RecordingConfig, embed_recording


@dataclass(kw_only=True)
class Options(RecordingConfig):
    files: list[Path] = positional()  # recordings
    checkpoint: Path  # final.pt of a speaker encoder
    out: Path | None = None  # X.npz or X.ark to write; without it nothing is written
    device: str = "auto"  # cpu, cuda, cuda:1, ...; auto takes a GPU when there is one


def main(options: Options) -> None:
    names = [printable(str(path)) for path in options.files]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"{repeated[0]}: named twice; name it once")
    if options.out:
        _check(options.out, names)
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
        WRITERS[options.out.suffix](options.out, found)
        print(f"{options.out}: {len(found):,} embeddings")
    elif found:
        print("nothing was written; --out embeddings.npz or --out embeddings.ark writes them")
    if len(found) < len(options.files):
        raise UserError(
            f"{len(options.files) - len(found):,} of {len(options.files):,} recordings have no embedding, see above"
        )


def _check(out: Path, names: list[str]) -> None:
    """Raises UserError when embeddings under these names could not be written there, before any is made."""
    if out.suffix not in WRITERS:
        raise UserError(f"--out {out}: give a name that ends in .npz or .ark")
    if out.suffix == ".ark" and len(set(map(_id, names))) < len(names):
        raise UserError(f"{out}: two recordings have names that differ in white space alone; write an npz")
    for path in (out, out.with_suffix(".scp")) if out.suffix == ".ark" else (out,):
        refuse_unwritable(path)


def write_npz(out: Path, embeddings: dict[str, np.ndarray]) -> None:
    """What np.savez writes; that takes names for arguments, of which `file` is one of its own."""
    with writing(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, embedding in embeddings.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, embedding, allow_pickle=False)


def write_ark(out: Path, embeddings: dict[str, np.ndarray]) -> None:
    """<out> and the .scp beside it."""
    writer = EmbeddingWriter(out.with_suffix(""))
    writer.unfinished.unlink(missing_ok=True)  # of a run that was killed; it may have been of other recordings
    with writer:
        writer.add([_id(name) for name in embeddings], np.stack(list(embeddings.values())))


def _id(name: str) -> str:
    """A name as Kaldi's lists can hold it."""
    return re.sub(r"\s", "_", name)


WRITERS = {".npz": write_npz, ".ark": write_ark}
