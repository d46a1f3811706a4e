"""Multi-crop views (Caron et al. 2020, section 3.4): global and local crops, each augmented by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from cslib.config import require
from cslib.data.banks import Banks
from cslib.data.manifests import SAMPLE_RATE
from cslib.data.utterances import Utterances
from cslib.datasets.augmentation import AugmentConfig, draw_augmentations, draw_channel
from cslib.datasets.epoch import EpochOrder, item_generator
from cslib.models.layers.features import without_silence

MOST_SEARCHED = 60 * SAMPLE_RATE  # samples of a recording that are searched for speech at most
APART = 5  # places drawn for the global crops to reduce their overlap; the outermost are used


@dataclass
class ViewConfig:
    global_crops: int = 2  # per utterance, seen by student and teacher; at least 2
    global_seconds: float = 4.0  # length of a global crop; a shorter utterance is repeated
    local_crops: int = 4  # per utterance, seen by the student alone
    local_seconds: float = 2.0  # length of a local crop
    reduce_overlap_p: float = 0.0  # probability that the global crops are the outermost of five random ones
    delete_silence: bool = False  # crop from the speech frames of an energy VAD, joined (Cho et al. 2022)
    clean_teacher: bool = False  # the teacher sees the global crops without augmentation (SDPN)
    positives: str = "utterance"  # crops come from one utterance, or (cluster) from two utterances with the same label

    def __post_init__(self) -> None:
        section = "objective.views"
        require(self.global_crops >= 2, f"{section}.global_crops", self.global_crops, "at least 2")
        require(self.local_crops >= 0, f"{section}.local_crops", self.local_crops, "at least 0")
        for name in ("global_seconds", "local_seconds"):
            seconds = getattr(self, name)
            require(0.025 <= seconds < math.inf, f"{section}.{name}", seconds, "at least 0.025, the length of a frame")
        chance = self.reduce_overlap_p
        require(0 <= chance <= 1, f"{section}.reduce_overlap_p", chance, "a probability from 0 to 1")
        good = self.positives in ("utterance", "cluster")
        require(good, f"{section}.positives", self.positives, "utterance or cluster")


class Views(Dataset[dict[str, Any]]):
    """Global and local crops of each utterance, with what to apply to them on the device.

    labels    int64 [n], label of each utterance, -1 for none; used if positives is "cluster". The even and the odd
              crops of an item then come from two utterances of its label, or from one if the label has no other
    held_out  int64, rows of utterances to leave out

    Item i is a function of (seed, i) alone, for every i >= 0. With M global and S local crops it holds

    global          int16 [M, T]
    global_channel  float32 [M, K]; with global_noise int16 [M, T], global_snr float32 [M] and global_rir float32
                    [M, R], see cslib/datasets/augmentation.py
    local, ...      the same for the local crops, with S in place of M; absent if S is 0
    ids             names of the utterances, separated by a space

    Starts are independent and uniform. An utterance shorter than a crop is repeated, not padded (see `random_crop` in
    cslib/datasets/crops.py).
    """

    def __init__(
        self,
        utterances: Utterances,
        banks: Banks,
        config: ViewConfig,
        augment: AugmentConfig,
        seed: int,
        labels: np.ndarray | None = None,
        held_out: np.ndarray | None = None,
    ) -> None:
        self.utterances, self.banks, self.config, self.augment = utterances, banks, config, augment
        self.seed = seed
        held_out = np.empty(0, np.int64) if held_out is None else held_out
        self.rows = np.setdiff1d(np.arange(len(utterances)), held_out)
        counts = {"global": config.global_crops, "local": config.local_crops}
        seconds = {"global": config.global_seconds, "local": config.local_seconds}
        # Kind and length in samples of each crop of an item, global crops first.
        self.kinds = [kind for kind, count in counts.items() for _ in range(count)]
        self.frames = np.array([round(seconds[kind] * SAMPLE_RATE) for kind in self.kinds])
        # Cho et al. (2022) draw utterances with replacement. Over many epochs that is the same distribution, but it
        # leaves a third of the utterances out of each epoch, and puts some into a batch twice: a false negative pair.
        self.order = EpochOrder(self.rows, seed)
        self.labels: np.ndarray | None = None
        if config.positives == "cluster" and labels is not None:
            self.labels = labels.copy()
            self.labels[held_out] = -1
            # Rows sorted by label, those without one first, and where each label begins.
            self._by_label = np.argsort(self.labels, kind="stable")
            self._starts = np.searchsorted(self.labels[self._by_label], np.arange(self.labels.max() + 2))

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = item_generator(self.seed, index)
        rows = self._with_partner(self.order.row(index), rng)
        views = [self._view(crop, rng) for crop in self._crops(rows, rng)]
        item: dict[str, Any] = {"ids": " ".join(self.utterances.ids(rows))}
        for kind in dict.fromkeys(self.kinds):
            chosen = [view for view, its in zip(views, self.kinds, strict=True) if its == kind]
            item |= {kind + part: np.stack([view[part] for view in chosen]) for part in chosen[0]}
        return item

    def _view(self, crop: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
        """A crop and what to apply to it, by the end of the key."""
        drawn = draw_augmentations(rng, self.banks, self.augment, len(crop))
        channel = draw_channel(rng, self.augment)
        return {"": crop, "_channel": channel, **{f"_{key}": value for key, value in drawn.items()}}

    def _with_partner(self, row: int, rng: np.random.Generator) -> list[int]:
        """The row and, if labels are used, another row with its label if there is one."""
        if self.labels is None or self.labels[row] < 0:
            return [row]
        begin, end = self._starts[self.labels[row] : self.labels[row] + 2]
        if end - begin == 1:
            return [row]
        partner = self._by_label[rng.integers(begin, end - 1)]
        return [row, int(partner if partner != row else self._by_label[end - 1])]

    def _crops(self, rows: list[int], rng: np.random.Generator) -> list[np.ndarray]:
        """int16 [T] each; with two rows, the even crops come from the first and the odd ones from the second."""
        places, crops = self._places(rng), [np.empty(0)] * len(self.kinds)
        for number, row in enumerate(rows):
            mine = slice(number, None, len(rows))
            read = read_voiced_crops if self.config.delete_silence else read_crops
            crops[mine] = read(self.utterances, row, places[mine], self.frames[mine])
        return crops

    def _places(self, rng: np.random.Generator) -> np.ndarray:
        """Relative start of each crop, float64 [M + S] in [0, 1): see `read_crops`."""
        places = rng.random(len(self.kinds))
        count = self.config.global_crops
        if rng.random() < self.config.reduce_overlap_p:
            drawn = np.sort(rng.random(max(APART, count)))
            places[:count] = drawn[np.linspace(0, len(drawn) - 1, count).round().astype(int)]
        return places


def read_crops(utterances: Utterances, row: int, places: np.ndarray, frames: np.ndarray) -> list[np.ndarray]:
    """Crops of one utterance, int16 [frames] each, decoded together.

    places  float64 [n] in [0, 1), from the first possible start to the last
    frames  int64 [n], length of each crop in samples; an utterance shorter than a crop is repeated
    """
    length = int(utterances.num_samples[row])
    starts = (places * (np.maximum(length - frames, 0) + 1)).astype(np.int64)
    ends = np.minimum(starts + frames, length)
    first, last = int(starts.min()), int(ends.max())
    if last - first > 2 * frames.sum():  # a long recording: reading each crop is faster than reading everything between
        parts = [utterances.read(row, int(start), int(end - start)) for start, end in zip(starts, ends, strict=True)]
    else:
        audio = utterances.read(row, first, last - first)
        parts = [audio[start - first : end - first] for start, end in zip(starts, ends, strict=True)]
    return [np.resize(part, size) for part, size in zip(parts, frames, strict=True)]


def read_voiced_crops(utterances: Utterances, row: int, places: np.ndarray, frames: np.ndarray) -> list[np.ndarray]:
    """`read_crops` from the speech frames of an energy VAD; all crops of a long recording are from one minute of it."""
    length = int(utterances.num_samples[row])
    searched = min(length, MOST_SEARCHED)
    audio = without_silence(utterances.read(row, int(places[0] * (length - searched + 1)), searched))
    starts = (places * (np.maximum(len(audio) - frames, 0) + 1)).astype(np.int64)
    return [np.resize(audio[start : start + size], size) for start, size in zip(starts, frames, strict=True)]
