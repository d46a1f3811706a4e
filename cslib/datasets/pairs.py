"""Random crops of pairs of noisy and clean speech."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from cslib.config import UserError
from cslib.data.manifests import SAMPLE_RATE
from cslib.data.pairs import PairedUtterances
from cslib.data.utterances import Utterances


@dataclass
class PairConfig:
    crop_seconds: float = 2.0  # length of a crop; a shorter recording is repeated
    snr_db: tuple[float, float] = (0.0, 15.0)  # of clean speech that is mixed for every crop, drawn uniformly

    def __post_init__(self) -> None:
        if not 0 < self.crop_seconds <= 60:
            raise UserError(f"crop_seconds: {self.crop_seconds} will not do; give more than 0 and at most 60")
        low, high = self.snr_db
        if not -100 <= low <= high <= 100:
            raise UserError(f"snr_db: {low} to {high} dB will not do; give two of -100 to 100, the lower one first")


class Pairs(Dataset):
    """Random crops of pairs; every recording comes once per pass, and an item is a pure function of (seed, index).

    An item holds: noisy int16 [T], clean int16 [T], negatives int16 [K, T], ids, the recording's name. What is drawn
    does not depend on K: runs with and without negatives see the same crops in the same order.
    """

    def __init__(self, utterances: PairedUtterances | Utterances, config: PairConfig, seed: int) -> None:
        self.utterances, self.seed = utterances, seed
        self.frames = round(config.crop_seconds * SAMPLE_RATE)
        self._pass: tuple[int, np.ndarray] | None = None

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self._row(index)
        signals = self.signals(row, np.random.default_rng([self.seed, index]))
        return {"noisy": signals[0], "clean": signals[1], "negatives": signals[2:], "ids": self.utterances.id(row)}

    def signals(self, row: int, rng: np.random.Generator) -> np.ndarray:
        """int16 [2 + K, T]: noisy, clean, negatives"""
        return take_crop(self.utterances, row, self.frames, rng)

    def _row(self, index: int) -> int:
        number, position = divmod(index, len(self.utterances))
        if self._pass is None or self._pass[0] != number:
            # Items have seeds of two numbers; a third one, other than 0, keeps the order apart from them.
            self._pass = number, np.random.default_rng([self.seed, number, 1]).permutation(len(self.utterances))
        return int(self._pass[1][position])


def take_crop(utterances: PairedUtterances | Utterances, row: int, frames: int, rng: np.random.Generator) -> np.ndarray:
    """int16 [..., frames] from a random place of a recording. One that is shorter is repeated, not padded: zeros at the
    end would be easy to enhance.
    """
    length = int(utterances.num_samples[row])
    if length > frames:
        return utterances.read(row, int(rng.integers(length - frames + 1)), frames)
    return np.take(utterances.read(row), np.arange(frames), axis=-1, mode="wrap")
