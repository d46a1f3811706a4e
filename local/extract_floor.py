"""Extract the embeddings of the floor, a training-free baseline: whitened mean and deviation of log-mel frames.

    python local/extract_floor.py --train data/mini/train --cuts data/mini/test \\
        --out exp/mini_csc/floor/embeddings/test

Nothing is trained and no label is used. 80 log-mel bands give 160 values per utterance: mean and standard deviation of
each band over time. A principal component analysis of the training set rotates and scales them to unit variance. Every
direction is kept, but variances below a hundredth of the largest are raised to it, so that whitening does not amplify
noise. EER on the mini corpus: 7.90 % of clean and 27.67 % of adverse trials.

The whitening is estimated once and kept as whitening.npz beside the embeddings. A second run does nothing unless a
manifest, --num-mels or --max-seconds has changed. Without --train the 160 values are not whitened, for a classifier
that scales them itself.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cslib.config import UserError, run
from cslib.data.embeddings import Origin, is_complete, manifests
from cslib.data.utterances import Utterances
from cslib.devices import device_named
from cslib.files import progress, writing
from cslib.inference.extraction import audio_batches, extract_to
from cslib.inference.floor import VARIANCE_FLOOR, LogMelStatistics, whitening_matrix

SHAPING = ("num_mels", "max_seconds")  # the options that change the embeddings; the others change only speed


@dataclass
class Options:
    cuts: Path  # data/<corpus>/<set> to extract embeddings from
    out: Path  # makes <out>.ark, <out>.scp and <out>.json, and whitening.npz in their folder
    train: Path | None = None  # data/<corpus>/<set> to estimate the whitening on (default: no whitening)
    num_mels: int = 80  # log-mel bands
    batch_seconds: float = 600.0  # seconds of audio per batch; lower it when memory is short
    max_seconds: float = 60.0  # of a longer utterance, the middle is used
    device: str = "auto"  # cpu, cuda, cuda:1, ...; auto uses a GPU if there is one
    workers: int = 2  # processes that decode audio; 0 decodes in this one


def main(options: Options) -> None:
    device = device_named(options.device)
    statistics = LogMelStatistics(options.num_mels).to(device)
    whitening = current_whitening(options, options.train, statistics, device) if options.train else None
    origin = origin_of(options, options.cuts, whitening)
    if is_complete(options.out, origin):
        print(f"{options.out}: done before, nothing to do")
    else:
        embed_set(options, statistics, whitening, origin, device)


def origin_of(options: Options, folder: Path, whitening: Path | None = None) -> Origin:
    """Of what is computed from the set in `folder`, and from the whitening if there is one."""
    chosen, defaults = ({name: getattr(of, name) for name in SHAPING} for of in (options, Options))
    sources = [*filter(None, [whitening]), *manifests(folder)]
    return Origin(sources, chosen, defaults, Utterances.open(folder).digest())


def current_whitening(options: Options, train: Path, statistics: nn.Module, device: torch.device) -> Path:
    """whitening.npz beside the embeddings, estimated unless it is there and up to date."""
    path = options.out.with_name("whitening.npz")
    origin, note = origin_of(options, train), path.with_suffix(".json")
    if origin.objection(path, note):
        mean, matrix = whiten(options, train, statistics, device)
        path.unlink(missing_ok=True)  # goes first and comes last, so that the note is always that of the file
        origin.write(note)
        with writing(path) as temporary:
            np.savez(temporary, mean=mean, matrix=matrix)
    return path


@torch.inference_mode()
def whiten(options: Options, train: Path, statistics: nn.Module, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and matrix [D, D] that give the training set's statistics unit variance, in constant memory."""
    utterances = Utterances.open(train)
    size = 2 * options.num_mels
    rows, total, products = np.arange(len(utterances)), np.zeros(size), np.zeros((size, size))
    nothing: tuple[int, ...] = ()
    with progress(nothing, "estimating the whitening", total=len(rows)) as bar:
        for ids, audio, lengths in audio_batches(
            utterances, rows, options.batch_seconds, options.max_seconds, options.workers
        ):
            values = statistics(audio.to(device), lengths.to(device)).double().cpu().numpy()
            total, products = total + values.sum(axis=0), products + values.T @ values
            bar.update(len(ids))
    mean = total / len(rows)
    return mean, whitening_matrix(products / len(rows) - np.outer(mean, mean), VARIANCE_FLOOR)


def read_whitening(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and matrix [D, D]. Raises UserError when the file is damaged."""
    try:
        with np.load(path) as arrays:
            return arrays["mean"], arrays["matrix"]
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error):
        raise UserError(f"{path}: damaged; delete it, and run the same command again") from None


def embed_set(
    options: Options, statistics: nn.Module, whitening: Path | None, origin: Origin, device: torch.device
) -> None:
    utterances = Utterances.open(options.cuts)
    arrays = read_whitening(whitening) if whitening else (np.zeros(()), np.eye(2 * options.num_mels))
    mean, matrix = (torch.tensor(array, dtype=torch.float32, device=device) for array in arrays)
    extract_to(
        options.out,
        origin,
        lambda audio, lengths: (statistics(audio, lengths) - mean) @ matrix,
        utterances,
        np.arange(len(utterances)),
        device=device,
        batch_seconds=options.batch_seconds,
        max_seconds=options.max_seconds,
        workers=options.workers,
    )


if __name__ == "__main__":
    run(main, Options)
