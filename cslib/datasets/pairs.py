"""Random crops of pairs of noisy and clean speech."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from cslib.config import require
from cslib.data.manifests import SAMPLE_RATE
from cslib.data.pairs import PairedUtterances
from cslib.data.utterances import Utterances
from cslib.datasets.epoch import EpochOrder, item_generator


@dataclass
class PairConfig:
    crop_seconds: float = 2.0  # length of a crop; a shorter recording is repeated
    snr_db: tuple[float, float] = (0.0, 15.0)  # SNR when noise is mixed in anew for every crop, drawn uniformly

    def __post_init__(self) -> None:
        seconds, (low, high) = self.crop_seconds, self.snr_db
        require(0 < seconds <= 60, "crop_seconds", seconds, "more than 0 and at most 60")
        require(-100 <= low <= high <= 100, "snr_db", [low, high], "a range within -100 and 100 dB, lower first")


class Pairs(Dataset[dict[str, Any]]):
    """Random crops of pairs; every recording comes once per epoch.

    Item i is a function of (seed, i) alone, for every i >= 0. It holds

    noisy      int16 [T]
    clean      int16 [T]
    negatives  int16 [K, T], other versions of the recording; K may be 0
    ids        name of the recording

    The draws do not depend on K: trainings with and without negatives see the same crops in the same order.
    """

    def __init__(self, utterances: PairedUtterances | Utterances, config: PairConfig, seed: int) -> None:
        self.utterances, self.seed = utterances, seed
        self.frames = round(config.crop_seconds * SAMPLE_RATE)
        self.order = EpochOrder(len(utterances), seed)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.order.row(index)
        signals = self.signals(row, item_generator(self.seed, index))
        return {"noisy": signals[0], "clean": signals[1], "negatives": signals[2:], "ids": self.utterances.id(row)}

    def signals(self, row: int, rng: np.random.Generator) -> np.ndarray:
        """int16 [2 + K, T]: noisy, clean, negatives."""
        return take_crop(self.utterances, row, self.frames, rng)


def take_crop(utterances: PairedUtterances | Utterances, row: int, frames: int, rng: np.random.Generator) -> np.ndarray:
    """int16 [..., frames] from a random place of a recording. A shorter one is repeated, not padded: trailing zeros
    would be easy to enhance.
    """
    length = int(utterances.num_samples[row])
    if length > frames:
        return utterances.read(row, int(rng.integers(length - frames + 1)), frames)
    return np.take(utterances.read(row), np.arange(frames), axis=-1, mode="wrap")
