"""Embed recordings: a vector for each, similar for recordings of one voice.

    python -m cslib embed a.wav b.mp3 --out embeddings.npz

Without --checkpoint, the network that comes with the project is used, models/speaker.pt.
Recordings may be of any format that soundfile reads (wav, flac, ogg, mp3, ...), of any rate and length; channels are
averaged. A recording longer than a minute is embedded in half-overlapping windows of that length: its embedding is the
mean of theirs, weighted by the seconds of speech in each. Silent recordings are reported and left out. Any loud sound
counts as speech: the embedding of noise or music has no meaning.

X.npz holds each vector under the name of its recording, as given on the command line:

    embeddings = numpy.load("embeddings.npz"); embeddings["a.wav"] @ embeddings["b.mp3"]    # their cosine

X.ark, with X.scp beside it, is Kaldi's format; white space in names becomes "_". All vectors have length 1. They are
written at the end: after Ctrl-C nothing is written, and the same command starts from the beginning.
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
from cslib.inference.shipped import named, network_or_shipped


@dataclass(kw_only=True)
class Options(RecordingConfig):
    files: list[Path] = positional()  # recordings to embed
    checkpoint: Path | None = None  # best.pt or final.pt of a speaker encoder (default: models/speaker.pt)
    out: Path | None = None  # file to write, X.npz or X.ark (default: nothing is written)
    device: str = "auto"  # cpu, cuda, cuda:1, ...; auto uses a GPU if there is one


def main(options: Options) -> None:
    names = [printable(str(path)) for path in options.files]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"{repeated[0]}: named twice; name it once")
    if options.out:
        _check(options.out, names)
    device = device_named(options.device)
    encoder = load_speaker_encoder(network_or_shipped(options.checkpoint), device)
    if options.checkpoint is None:
        print(f"network: {named(None)}")
    found: dict[str, np.ndarray] = {}
    for path in options.files:
        try:
            embedded = embed_recording(encoder, path, options, device)
        except UserError as problem:  # the other recordings are embedded all the same
            print(problem)
            continue
        found[str(path)] = embedded.vector
        print(f"{path}: {embedded}, embedding of size {len(embedded.vector)}")
    if found and options.out:
        WRITERS[options.out.suffix](options.out, found)
        print(f"{options.out}: {len(found):,} embeddings")
    elif found:
        print("nothing was written; add --out embeddings.npz or --out embeddings.ark to write the embeddings")
    if len(found) < len(options.files):
        raise UserError(
            f"{len(options.files) - len(found):,} of {len(options.files):,} recordings have no embedding, see above"
        )


def _check(out: Path, names: list[str]) -> None:
    """Raise UserError, before any recording is embedded, when embeddings of these names cannot be written there."""
    if out.suffix not in WRITERS:
        raise UserError(f"--out is {out}; it must end in .npz or .ark")
    if out.suffix == ".ark" and len(set(map(_id, names))) < len(names):
        raise UserError(f"{out}: the names of two recordings differ only in white space; write an .npz file")
    for path in (out, out.with_suffix(".scp")) if out.suffix == ".ark" else (out,):
        refuse_unwritable(path)


def write_npz(out: Path, embeddings: dict[str, np.ndarray]) -> None:
    """Write what np.savez would; np.savez takes names as keyword arguments, and could not take the name `file`."""
    with writing(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, embedding in embeddings.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, embedding, allow_pickle=False)


def write_ark(out: Path, embeddings: dict[str, np.ndarray]) -> None:
    """<out> and the .scp beside it."""
    writer = EmbeddingWriter(out.with_suffix(""))
    writer.unfinished.unlink(missing_ok=True)  # left by a run that was killed, perhaps of other recordings
    with writer:
        writer.add([_id(name) for name in embeddings], np.stack(list(embeddings.values())))


def _id(name: str) -> str:
    """The name as an id in Kaldi's lists, which are separated by white space."""
    return re.sub(r"\s", "_", name)


WRITERS = {".npz": write_npz, ".ark": write_ark}
