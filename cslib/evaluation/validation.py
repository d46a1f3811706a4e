"""Validation of an enhancement network during its training: the mean of one measure over held-out recordings."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cslib.config import UserError, require
from cslib.data.manifests import SAMPLE_RATE
from cslib.data.pairs import PairedUtterances, whole_batches
from cslib.datasets.augmentation import to_float
from cslib.evaluation.speech_quality import SHORTEST, Unmeasurable, pesq_wide_band, si_sdr
from cslib.models.base import EnhancementNetwork
from cslib.parallel import in_order

# Each measure, and the value of a recording for which it is undefined, as when a network outputs silence: a poor one.
MEASURES: dict[str, tuple[Callable[[np.ndarray, np.ndarray], float], float]] = {
    "pesq": (pesq_wide_band, 1.0),
    "si_sdr": (si_sdr, -30.0),
}
WORTH_A_PROCESS = 32  # recordings; with fewer, starting a process costs more than it saves
BATCH_SECONDS = 60.0  # audio that the network enhances at a time


@dataclass
class ValidationConfig:
    pairs: Path | None = None  # data/<corpus>/<set> with clean/ and noisy/; never the test set
    measure: str = "pesq"  # pesq: wide-band, about 0.1 s per recording and core | si_sdr: in dB, much faster
    recordings: int = 150  # number of recordings, evenly spaced over the set; all if it has fewer
    every: int = 1000  # steps between two validations

    def __post_init__(self) -> None:
        require(self.measure in MEASURES, "validation.measure", self.measure, f"one of {', '.join(MEASURES)}")
        for name in ("recordings", "every"):
            require(getattr(self, name) >= 1, f"validation.{name}", getattr(self, name), "at least 1")


class Validation:
    """Mean of a measure over the same recordings each time: of a network, of the noisy speech and of the negatives.

    rows  int [n], the recordings that are measured, by number
    Raises UserError when no recording is long enough to measure.
    """

    def __init__(self, pairs: PairedUtterances, config: ValidationConfig) -> None:
        self.pairs = pairs
        self.score = partial(_score, *MEASURES[config.measure])
        self.cores = _cores() if config.measure == "pesq" else 1
        lengths = np.asarray(pairs.num_samples)
        fitting = np.flatnonzero(lengths >= SHORTEST)
        if not len(fitting):
            raise UserError(
                f"validation.pairs: {config.pairs} has no recording of {SHORTEST / SAMPLE_RATE:g} s or more; "
                "give another set"
            )
        count = min(config.recordings, len(fitting))
        self.rows = fitting[np.linspace(0, len(fitting) - 1, count).round().astype(int)]

    def of_network(self, network: nn.Module, device: torch.device) -> float:
        """Mean over the recordings that `network` enhanced. Its mode and the random state stay as they are.

        network  an EnhancementNetwork
        """
        training = network.training
        network.eval()
        scores = self._scores(self._enhanced(network, device), len(self.rows))
        network.train(training)
        return math.fsum(scores) / len(self.rows)

    def of_recordings(self) -> list[float]:
        """Means [1 + K]: of the noisy recordings, and of each of the K negatives."""
        sides = 1 + len(self.pairs.enhanced)
        scores = self._scores(self._recorded(), sides * len(self.rows))
        return np.reshape(scores, (-1, sides)).mean(axis=0).tolist()

    def _enhanced(self, network: nn.Module, device: torch.device) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (clean, enhanced), each [T], of each recording."""
        assert isinstance(network, EnhancementNetwork)
        for batch in whole_batches(self.pairs, BATCH_SECONDS, self.rows):
            lengths = batch["lengths"]
            enhanced = network.enhance(to_float(batch["noisy"]).to(device), lengths.to(device)).cpu().numpy()
            for clean, audio, length in zip(batch["clean"].numpy(), enhanced, lengths.tolist(), strict=True):
                yield clean[:length], audio[:length]

    def _recorded(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (clean, noisy), then (clean, negative) for each negative, of each recording."""
        for row in self.rows.tolist():
            noisy, clean, *negatives = self.pairs.read(row)
            yield from ((clean, audio) for audio in (noisy, *negatives))

    def _scores(self, pairs: Iterator[tuple[np.ndarray, np.ndarray]], count: int) -> list[float]:
        """Scores of `count` pairs, in their order. The training waits meanwhile, so that its cores are free.

        `in_order` takes its processes from a fork server: a fork of this one, with its threads and its CUDA context,
        may hang.
        """
        return list(in_order(self.score, pairs, min(self.cores, count // WORTH_A_PROCESS), chunk=1))


def _score(
    measure: Callable[[np.ndarray, np.ndarray], float], worst: float, pair: tuple[np.ndarray, np.ndarray]
) -> float:
    try:
        return measure(*pair)
    except Unmeasurable:
        return worst
    except ValueError:
        if np.isfinite(pair[1]).all():
            raise
        return worst  # the training itself reports samples that are not finite


def _cores() -> int:
    """Number of cores of this training; of several training processes one measures, and the others wait for it."""
    return len(os.sched_getaffinity(0)) if torch.distributed.is_initialized() else torch.get_num_threads()
