"""The floor that every learnt system has to beat: mean and standard deviation of log-mel frames, whitened.

    python local/extract_floor.py --train data/mini/train --cuts data/mini/test \\
        --out exp/mini_csc/floor/embeddings/test

Nothing is trained and no label is used: 80 log-mel bands give 160 numbers per utterance, and a principal
component analysis of the training set rotates and scales them to unit variance. Every direction is kept; one
whose variance is below a hundredth of the largest is scaled as if it had that much, so that directions of
noise are not blown up (EER on the mini corpus 12 %; with plain whitening 18 %). The whitening is estimated
once, and kept as whitening.npz beside the embeddings. A second run does nothing unless a manifest has
changed. Without --train the 160 numbers stay as they are, for a classifier that scales them itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cslib.config import run
from cslib.data.embeddings import is_complete, is_current, manifests
from cslib.data.utterances import Utterances
from cslib.devices import device_named
from cslib.files import progress, writing
from cslib.inference.extraction import audio_batches, extract_to
from cslib.models.layers.features import LogMel
from cslib.models.layers.pooling import StatisticsPooling

VARIANCE_FLOOR = 1e-2  # of the largest variance


@dataclass
class Options:
    cuts: Path  # data/<set> to make embeddings of
    out: Path  # makes <out>.ark and <out>.scp, and whitening.npz in their folder
    train: Path | None = None  # data/<set> that the whitening is estimated on; none: no whitening
    num_mels: int = 80  # log-mel bands
    batch_seconds: float = 600.0  # audio per batch; lower it when memory is short
    max_seconds: float = 60.0  # of a longer utterance the middle is taken
    device: str = "auto"  # cpu, cuda, cuda:1, ...; auto takes a GPU when there is one
    workers: int = 2  # processes that decode audio; 0 decodes in this one


def main(options: Options) -> None:
    device = device_named(options.device)
    statistics = LogMelStatistics(options.num_mels).to(device)
    whitening = options.out.with_name("whitening.npz") if options.train else None
    if whitening and not is_current(whitening, manifests(options.train)):
        save_whitening(whitening, *whiten(options, statistics, device))
    if is_complete(options.out, [*filter(None, [whitening]), *manifests(options.cuts)]):
        print(f"{options.out}: done before, nothing to do")
    else:
        embed_set(options, statistics, whitening, device)


class LogMelStatistics(nn.Module):
    """Mean and deviation over time of log-mel frames: audio [B, T], lengths [B] -> [B, 2 num_mels]."""

    def __init__(self, num_mels: int) -> None:
        super().__init__()
        self.log_mel, self.pool = LogMel(num_mels), StatisticsPooling(num_mels)

    def forward(self, audio: Tensor, lengths: Tensor) -> Tensor:
        frames = self.log_mel(audio, lengths).transpose(1, 2)
        inside = torch.arange(frames.shape[-1], device=audio.device) < self.log_mel.frames(lengths)[:, None]
        return self.pool(frames, inside)


@torch.inference_mode()
def whiten(options: Options, statistics: nn.Module, device: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and matrix [D, D] that give the training set's statistics unit variance, in flat memory."""
    utterances = Utterances.open(options.train)
    rows, total, products = np.arange(len(utterances)), 0.0, 0.0
    with progress((), "estimating the whitening", total=len(rows)) as bar:
        for ids, audio, lengths in audio_batches(
            utterances, rows, options.batch_seconds, options.max_seconds, options.workers
        ):
            values = statistics(audio.to(device), lengths.to(device)).double().cpu().numpy()
            total, products = total + values.sum(axis=0), products + values.T @ values
            bar.update(len(ids))
    mean = total / len(rows)
    variances, directions = np.linalg.eigh(products / len(rows) - np.outer(mean, mean))
    return mean, directions / np.sqrt(np.maximum(variances, VARIANCE_FLOOR * variances[-1]))


def save_whitening(path: Path, mean: np.ndarray, matrix: np.ndarray) -> None:
    with writing(path) as temporary:
        np.savez(temporary, mean=mean, matrix=matrix)


def embed_set(options: Options, statistics: nn.Module, whitening: Path | None, device: str) -> None:
    out, utterances = options.out, Utterances.open(options.cuts)
    loaded = np.load(whitening) if whitening else {"mean": 0.0, "matrix": np.eye(2 * options.num_mels)}
    mean, matrix = (torch.tensor(loaded[name], dtype=torch.float32, device=device) for name in ("mean", "matrix"))
    extract_to(
        out,
        [*filter(None, [whitening]), *manifests(options.cuts)],
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
