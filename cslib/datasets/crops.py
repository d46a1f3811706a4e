"""Random crops with one label each, for supervised training or training on pseudo-labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from cslib.config import UserError
from cslib.data.banks import Banks
from cslib.data.manifests import SAMPLE_RATE
from cslib.data.utterances import Utterances
from cslib.datasets.augmentation import AugmentConfig, draw_augmentations, draw_channel
from cslib.datasets.epoch import EpochOrder, item_generator


@dataclass
class CropConfig:
    seconds: float = 4.0  # length of a crop; a shorter utterance is repeated
    balanced: bool = False  # draw labels uniformly; otherwise each utterance comes once per epoch
    interferer_p: float = 0.0  # probability that a second speaker interferes
    sir_db: tuple[float, float] = (5.0, 15.0)  # level of the labelled speaker over the interferer, drawn uniformly


class LabelledCrops(Dataset[dict[str, Any]]):
    """Crops of the utterances that have a label, with what to apply to them on the device.

    labels  int64 [n], label of each utterance; -1: rejected, used neither for training nor as an interferer

    Item i is a function of (seed, i) alone, for every i >= 0. It holds

    speech      int16 [T]
    interferer  int16 [T], crop of another label; silent for none
    sir         float32, level of the speech over the interferer in dB
    channel     float32 [K]; with noise int16 [T], snr float32 and rir float32 [R], see cslib/datasets/augmentation.py
    label       int64
    row         int64, row of the utterance in the set
    ids         name of the utterance

    Raises UserError when no utterance has a label.
    """

    def __init__(
        self,
        utterances: Utterances,
        labels: np.ndarray,
        banks: Banks,
        config: CropConfig,
        augment: AugmentConfig,
        seed: int,
    ) -> None:
        self.utterances, self.labels, self.banks = utterances, np.asarray(labels), banks
        self.config, self.augment, self.seed = config, augment, seed
        self.frames = round(config.seconds * SAMPLE_RATE)
        self.rows = np.flatnonzero(self.labels >= 0)
        if not len(self.rows):
            raise UserError("no utterance of the set has a label; give labels that were made for this set")
        self.order = EpochOrder(self.rows, seed)
        # Rows sorted by label, and where each label begins: the utterances of a label are one slice.
        self._by_label = self.rows[np.argsort(self.labels[self.rows], kind="stable")]
        self._starts = np.flatnonzero(np.diff(self.labels[self._by_label], prepend=-1))

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = item_generator(self.seed, index)
        row = self._balanced_row(rng) if self.config.balanced else self.order.row(index)
        return {
            **draw_augmentations(rng, self.banks, self.augment, self.frames),
            "speech": random_crop(self.utterances, row, self.frames, rng),
            "interferer": self._interferer(row, rng),
            "sir": np.float32(rng.uniform(*self.config.sir_db)),
            "channel": draw_channel(rng, self.augment),
            "label": self.labels[row],
            "row": np.int64(row),
            "ids": self.utterances.id(row),
        }

    def _balanced_row(self, rng: np.random.Generator) -> int:
        label = rng.integers(len(self._starts))
        end = self._starts[label + 1] if label + 1 < len(self._starts) else len(self._by_label)
        return int(self._by_label[rng.integers(self._starts[label], end)])

    def _interferer(self, row: int, rng: np.random.Generator) -> np.ndarray:
        """int16 [T] of an utterance with another label; silence for none."""
        if rng.random() >= self.config.interferer_p:
            return np.zeros(self.frames, dtype=np.int16)
        others = rng.choice(self.rows, size=16)
        others = others[self.labels[others] != self.labels[row]]
        if not len(others):
            return np.zeros(self.frames, dtype=np.int16)
        return random_crop(self.utterances, int(others[0]), self.frames, rng)


def random_crop(utterances: Utterances, row: int, frames: int, rng: np.random.Generator) -> np.ndarray:
    """int16 [frames] from a random place of an utterance. A shorter utterance is repeated, not padded.

    (Trailing zeros would be a cue of their own, common to all short utterances.)
    """
    length = int(utterances.num_samples[row])
    if length <= frames:
        return np.resize(utterances.read(row), frames)
    return utterances.read(row, int(rng.integers(length - frames + 1)), frames)
