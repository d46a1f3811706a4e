"""Random crops with one label each, for supervised training or training on pseudo-labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.signal
from torch.utils.data import Dataset

from cslib.config import UserError, require
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
    # speeds to play utterances at, each equally often; pitch and formants move along, so a label has a class per speed
    speeds: list[float] = field(default_factory=lambda: [1.0])

    def __post_init__(self) -> None:
        good = len(self.speeds) > 0 and all(0.5 <= speed <= 2 for speed in self.speeds)
        require(good, "objective.crops.speeds", self.speeds, "one or more numbers from 0.5 to 2")


class LabelledCrops(Dataset[dict[str, Any]]):
    """Crops of the utterances that have a label, with what to apply to them on the device.

    labels   int64 [n], label of each utterance; -1: rejected, used neither for training nor as an interferer
    classes  number of different labels of items: the labels from 0 to the largest, once for each speed

    Playing speech faster or slower changes the voice, so each speed of a speaker counts as another speaker. With a few
    hundred labels, three speeds give the network three times as many speakers to tell apart (Yamamoto et al. 2019,
    Interspeech).

    Item i is a function of (seed, i) alone, for every i >= 0. It holds

    speech      int16 [T]
    interferer  int16 [T], crop of another label; silent for none
    sir         float32, level of the speech over the interferer in dB
    channel     float32 [K]; with noise int16 [T], snr float32 and rir float32 [R], see cslib/datasets/augmentation.py
    label       int64, label of the utterance + (largest label + 1) * number of the speed
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
        self.classes = (int(self.labels.max(initial=-1)) + 1) * len(config.speeds)
        if not len(self.rows):
            raise UserError("no utterance of the set has a label; give labels that were made for this set")
        self.order = EpochOrder(self.rows, seed)
        # Rows sorted by label, and where each label begins: the utterances of a label are one slice.
        self._by_label = self.rows[np.argsort(self.labels[self.rows], kind="stable")]
        self._starts = np.flatnonzero(np.diff(self.labels[self._by_label], prepend=-1))

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = item_generator(self.seed, index)
        row = self._balanced_row(rng) if self.config.balanced else self.order.row(index)
        # A single speed draws nothing, so that earlier trainings stay reproducible.
        speeds = self.config.speeds
        speed = int(rng.integers(len(speeds))) if len(speeds) > 1 else 0
        return {
            **draw_augmentations(rng, self.banks, self.augment, self.frames),
            "speech": random_crop(self.utterances, row, self.frames, rng, speeds[speed]),
            "interferer": self._interferer(row, rng),
            "sir": np.float32(rng.uniform(*self.config.sir_db)),
            "channel": draw_channel(rng, self.augment),
            "label": self.labels[row] + speed * (self.classes // len(speeds)),
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


def random_crop(
    utterances: Utterances, row: int, frames: int, rng: np.random.Generator, speed: float = 1.0
) -> np.ndarray:
    """int16 [frames] from a random place of an utterance, played at `speed`. A shorter utterance is repeated.

    (It is not padded: trailing zeros would be a cue of their own, common to all short utterances.)
    """
    length, wanted = int(utterances.num_samples[row]), round(frames * speed)
    if length <= wanted:
        return at_length(np.resize(utterances.read(row), wanted), frames)
    return at_length(utterances.read(row, int(rng.integers(length - wanted + 1)), wanted), frames)


def at_length(samples: np.ndarray, frames: int) -> np.ndarray:
    """int16 [n] resampled to int16 [frames]: the same sound, n / frames times as fast."""
    if len(samples) == frames:
        return samples
    resampled = scipy.signal.resample(samples.astype(np.float32), frames)
    return np.clip(np.round(resampled), -32768, 32767).astype(np.int16)
