"""How good a network is while it learns: one number from a few recordings that it is not trained on."""

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

from cslib.config import UserError
from cslib.data.manifests import SAMPLE_RATE
from cslib.data.pairs import PairedUtterances, whole_batches
from cslib.datasets.augmentation import to_float
from cslib.evaluation.speech_quality import SHORTEST, Unmeasurable, pesq_wide_band, si_sdr
from cslib.parallel import in_order

# What is measured, and the value of a recording that has none, as when a network gives silence: a poor one.
MEASURES: dict[str, tuple[Callable[[np.ndarray, np.ndarray], float], float]] = {
    "pesq": (pesq_wide_band, 1.0),
    "si_sdr": (si_sdr, -30.0),
}
WORTH_A_PROCESS = 32  # recordings; to start one takes as long as PESQ of a few of them
BATCH_SECONDS = 60.0


@dataclass
class ValidationConfig:
    pairs: Path | None = None  # data/<corpus>/<set>, which holds clean/ and noisy/; never what is tested on
    measure: str = "pesq"  # pesq: wide-band, about 0.1 s a recording on one core | si_sdr: in dB, at once
    recordings: int = 150  # how many of the set, spread over it evenly; all when there are fewer
    every: int = 1000  # steps; about an epoch

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise UserError(f"validation.measure: {self.measure} will not do; give one of {', '.join(MEASURES)}")
        for name in ("recordings", "every"):
            if getattr(self, name) < 1:
                raise UserError(f"validation.{name}: {getattr(self, name)} will not do; give 1 or more")


class Validation:
    """Means of a measure over the same recordings each time: of a network, of the noisy speech, of the negatives.

    rows  of the pairs, those that are measured. Raises UserError when none has a length that can be.
    """

    def __init__(self, pairs: PairedUtterances, config: ValidationConfig) -> None:
        self.pairs = pairs
        self.score = partial(_score, *MEASURES[config.measure])
        self.cores = _cores() if config.measure == "pesq" else 1
        lengths = np.asarray(pairs.num_samples)
        fitting = np.flatnonzero(lengths >= SHORTEST)
        if not len(fitting):
            raise UserError(
                f"validation.pairs: {config.pairs} has no recording of {SHORTEST / SAMPLE_RATE:g} s or "
                "more; give another set"
            )
        count = min(config.recordings, len(fitting))
        self.rows = fitting[np.linspace(0, len(fitting) - 1, count).round().astype(int)]

    def of_network(self, network: nn.Module, device: torch.device) -> float:
        """Mean over the recordings after `network.enhance`; its mode, and the random state, stay as they are."""
        training = network.training
        network.eval()
        scores = self._scores(self._enhanced(network, device), len(self.rows))
        network.train(training)
        return math.fsum(scores) / len(self.rows)

    def of_recordings(self) -> list[float]:
        """Means [1 + K] of the noisy recordings and of those of each negative."""
        sides = 1 + len(self.pairs.enhanced)
        scores = self._scores(self._recorded(), sides * len(self.rows))
        return np.reshape(scores, (-1, sides)).mean(axis=0).tolist()

    def _enhanced(self, network: nn.Module, device: torch.device) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(clean, enhanced) of each recording."""
        for batch in whole_batches(self.pairs, BATCH_SECONDS, self.rows):
            lengths = batch["lengths"]
            enhanced = network.enhance(to_float(batch["noisy"]).to(device), lengths.to(device)).cpu().numpy()
            for clean, audio, length in zip(batch["clean"].numpy(), enhanced, lengths.tolist(), strict=True):
                yield clean[:length], audio[:length]

    def _recorded(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(clean, noisy), then (clean, negative) of each negative, of each recording."""
        for row in self.rows.tolist():
            noisy, clean, *negatives = self.pairs.read(row)
            yield from ((clean, audio) for audio in (noisy, *negatives))

    def _scores(self, pairs: Iterator[tuple[np.ndarray, np.ndarray]], count: int) -> list[float]:
        """Of `count` pairs, in their order. The training waits meanwhile: its cores are free."""
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
        return worst  # the training itself stops at what is not finite, and says so


def _cores() -> int:
    """Those of this training: of several processes the first one measures, and the others wait for it."""
    return len(os.sched_getaffinity(0)) if torch.distributed.is_initialized() else torch.get_num_threads()
