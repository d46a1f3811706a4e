"""Single random crops with a label each; every item is a pure function of (seed, index)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from cslib.config import UserError
from cslib.data.banks import Banks
from cslib.data.manifests import SAMPLE_RATE
from cslib.data.utterances import Utterances
from cslib.datasets.augmentation import AugmentConfig, draw_channel, draw_degradation


@dataclass
class CropConfig:
    seconds: float = 4.0  # length of a crop; a shorter utterance is repeated
    balanced: bool = False  # draw labels evenly; else each utterance comes once per pass
    interferer_p: float = 0.0  # share of crops in which somebody else talks too
    sir_db: tuple[float, float] = (5.0, 15.0)  # how much louder the labelled talker is, drawn uniformly


class LabelledCrops(Dataset):
    """Crops of the utterances that have a label, with all that is needed to degrade them on the device.

    labels  int64 [n] label of each utterance, -1 = rejected: it is neither trained on nor talks in the
            background

    An item holds: speech int16 [T]; interferer int16 [T], silent when alone, and sir (dB); channel [K]; noise
    int16 [T], snr and rir [R] (see cslib/datasets/augmentation.py); label int64; row int64, the utterance's place in
    the set, and ids, its name.
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
        # Rows label by label, and where each label's begin: a label's utterances are one slice.
        self._by_label = self.rows[np.argsort(self.labels[self.rows], kind="stable")]
        self._starts = np.flatnonzero(np.diff(self.labels[self._by_label], prepend=-1))
        self._pass: tuple[int, np.ndarray] | None = None

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, index])
        row = self._balanced_row(rng) if self.config.balanced else self._next_row(index)
        noise, snr, rir = draw_degradation(rng, self.banks, self.augment, self.frames)
        return {
            "speech": random_crop(self.utterances, row, self.frames, rng),
            "interferer": self._interferer(row, rng),
            "sir": np.float32(rng.uniform(*self.config.sir_db)),
            "channel": draw_channel(rng, self.augment),
            "noise": noise,
            "snr": snr,
            "rir": rir,
            "label": self.labels[row],
            "row": np.int64(row),
            "ids": self.utterances.id(row),
        }

    def _next_row(self, index: int) -> int:
        number, position = divmod(index, len(self.rows))
        if self._pass is None or self._pass[0] != number:
            # Items have seeds of two numbers; a third one, other than 0, keeps passes apart from them.
            self._pass = number, np.random.default_rng([self.seed, number, 1]).permutation(self.rows)
        return int(self._pass[1][position])

    def _balanced_row(self, rng: np.random.Generator) -> int:
        label = rng.integers(len(self._starts))
        end = self._starts[label + 1] if label + 1 < len(self._starts) else len(self._by_label)
        return int(self._by_label[rng.integers(self._starts[label], end)])

    def _interferer(self, row: int, rng: np.random.Generator) -> np.ndarray:
        """int16 [T] of an utterance with another label; silence when the talker is alone."""
        if rng.random() >= self.config.interferer_p:
            return np.zeros(self.frames, dtype=np.int16)
        others = rng.choice(self.rows, size=16)
        others = others[self.labels[others] != self.labels[row]]
        if not len(others):
            return np.zeros(self.frames, dtype=np.int16)
        return random_crop(self.utterances, int(others[0]), self.frames, rng)


def random_crop(utterances: Utterances, row: int, frames: int, rng: np.random.Generator) -> np.ndarray:
    """int16 [frames] from a random place of an utterance; one that is too short is repeated, not padded.

    (Zeros at the end would be a cue of their own, and the same in every short utterance.)
    """
    length = int(utterances.num_samples[row])
    if length <= frames:
        return np.resize(utterances.read(row), frames)
    return utterances.read(row, int(rng.integers(length - frames + 1)), frames)
