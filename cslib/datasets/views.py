"""Multi-crop views (Caron et al. 2020, section 3.4): global and local crops of an utterance, each degraded by itself.

Every item is a pure function of (seed, index).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from cslib.config import UserError
from cslib.data.banks import Banks
from cslib.data.manifests import SAMPLE_RATE
from cslib.data.utterances import Utterances
from cslib.datasets.augmentation import AugmentConfig, draw_channel, draw_degradation
from cslib.models.layers.features import without_silence

MOST_SEARCHED = 60 * SAMPLE_RATE  # samples of a recording that are searched for speech at a time
APART = 5  # places drawn for the global crops when they shall not overlap much: the outermost are taken


@dataclass
class ViewConfig:
    global_crops: int = 2  # of each utterance, seen by student and teacher; 2 or more
    global_seconds: float = 4.0  # an utterance that is shorter is repeated
    local_crops: int = 4  # of each utterance, seen by the student alone
    local_seconds: float = 2.0
    reduce_overlap_p: float = 0.0  # probability that the global crops are the outermost of five, not independent
    delete_silence: bool = False  # crops are of what an energy VAD takes for speech, joined (Cho et al.)
    clean_teacher: bool = False  # the teacher hears the global crops as recorded, the student degraded (SDPN)
    positives: str = "utterance"  # what crops are of: utterance, or cluster (two utterances of one label)

    def __post_init__(self) -> None:
        _require(self.global_crops >= 2, "global_crops", self.global_crops, "2 or more")
        _require(self.local_crops >= 0, "local_crops", self.local_crops, "0 or more")
        for name in ("global_seconds", "local_seconds"):
            good = 0.025 <= getattr(self, name) < math.inf
            _require(good, name, getattr(self, name), "0.025 or more, the length of a frame")
        chance = self.reduce_overlap_p
        _require(0 <= chance <= 1, "reduce_overlap_p", chance, "a probability from 0 to 1")
        _require(self.positives in ("utterance", "cluster"), "positives", self.positives, "utterance or cluster")


def _require(good: bool, name: str, value: object, wanted: str) -> None:
    if not good:
        raise UserError(f"objective.views.{name}: {value} will not do; give {wanted}")


class Views(Dataset):
    """Global and local crops of each utterance, with all that is needed to degrade them on the device.

    labels    int64 [n] label of each utterance, -1 = none, for positives: cluster. The even and the odd crops of an
              item then come from two different utterances of its label, if that has two; else from one.
    held_out  int64 rows of utterances that no crop is taken of

    An item holds, of M global crops: global int16 [M, T]; global_channel [M, K]; global_noise int16 [M, T], global_snr
    [M] and global_rir [M, R] (see cslib/datasets/augmentation.py); the same of the local crops as local,
    local_channel, ..., if there are any; ids, the names of the utterances. Starts are independent and uniform; an
    utterance shorter than a crop is repeated, not padded (see random_crop in cslib/datasets/crops.py).
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
        # Of every crop of an item, the global ones first: its kind and its length in samples.
        self.kinds = [kind for kind, count in counts.items() for _ in range(count)]
        self.frames = np.array([round(seconds[kind] * SAMPLE_RATE) for kind in self.kinds])
        self.labels = labels if config.positives == "cluster" else None
        if self.labels is not None:
            self.labels = self.labels.copy()
            self.labels[held_out] = -1
            # Rows label by label, those without one first, and where each label's begin.
            self._by_label = np.argsort(self.labels, kind="stable")
            self._starts = np.searchsorted(self.labels[self._by_label], np.arange(self.labels.max() + 2))
        self._pass: tuple[int, np.ndarray] | None = None

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, index])
        rows = self._with_partner(self._next_row(index), rng)
        views = [self._view(crop, rng) for crop in self._crops(rows, rng)]
        item: dict[str, Any] = {"ids": " ".join(self.utterances.ids(rows))}
        for kind in dict.fromkeys(self.kinds):
            chosen = [view for view, its in zip(views, self.kinds, strict=True) if its == kind]
            item |= {kind + part: np.stack([view[part] for view in chosen]) for part in chosen[0]}
        return item

    def _view(self, crop: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
        drawn = draw_degradation(rng, self.banks, self.augment, len(crop))
        return {
            "": crop,
            "_channel": draw_channel(rng, self.augment),
            "_noise": drawn.noise,
            "_snr": drawn.snr,
            "_rir": drawn.rir,
        }

    def _next_row(self, index: int) -> int:
        """Each utterance once per pass, in an order of the pass's own.

        Cho et al. draw with replacement. Over many passes that is the same distribution, but it leaves a third of
        the utterances out of each pass, and puts some into a batch twice: a pair that a batch should tell apart.
        """
        number, position = divmod(index, len(self.rows))
        if self._pass is None or self._pass[0] != number:
            # Items have seeds of two numbers; a third one, other than 0, keeps passes apart from them.
            self._pass = number, np.random.default_rng([self.seed, number, 1]).permutation(self.rows)
        return int(self._pass[1][position])

    def _with_partner(self, row: int, rng: np.random.Generator) -> list[int]:
        """The row and, where labels are used, another one of its label if there is one."""
        if self.labels is None or self.labels[row] < 0:
            return [row]
        begin, end = self._starts[self.labels[row] : self.labels[row] + 2]
        if end - begin == 1:
            return [row]
        partner = self._by_label[rng.integers(begin, end - 1)]
        return [row, int(partner if partner != row else self._by_label[end - 1])]

    def _crops(self, rows: list[int], rng: np.random.Generator) -> list[np.ndarray]:
        """int16 [T] each; of two utterances the even crops are of the first and the odd ones of the second."""
        places, crops = self._places(rng), [np.empty(0)] * len(self.kinds)
        for number, row in enumerate(rows):
            mine = slice(number, None, len(rows))
            read = read_voiced_crops if self.config.delete_silence else read_crops
            crops[mine] = read(self.utterances, row, places[mine], self.frames[mine])
        return crops

    def _places(self, rng: np.random.Generator) -> np.ndarray:
        """Where each crop begins, float [M + S] in [0, 1): see `read_crops`."""
        places = rng.random(len(self.kinds))
        count = self.config.global_crops
        if rng.random() < self.config.reduce_overlap_p:
            drawn = np.sort(rng.random(max(APART, count)))
            places[:count] = drawn[np.linspace(0, len(drawn) - 1, count).round().astype(int)]
        return places


def read_crops(utterances: Utterances, row: int, places: np.ndarray, frames: np.ndarray) -> list[np.ndarray]:
    """Crops of one utterance, int16 [frames] each, decoded at once.

    places  float [n] in [0, 1), from the first possible start to the last
    frames  int64 [n] length of each; a crop longer than the utterance is that, repeated
    """
    length = int(utterances.num_samples[row])
    starts = (places * (np.maximum(length - frames, 0) + 1)).astype(np.int64)
    ends = np.minimum(starts + frames, length)
    first, last = int(starts.min()), int(ends.max())
    if last - first > 2 * frames.sum():  # a long recording: to find each crop costs less than all that lies between
        parts = [utterances.read(row, int(start), int(end - start)) for start, end in zip(starts, ends, strict=True)]
    else:
        audio = utterances.read(row, first, last - first)
        parts = [audio[start - first : end - first] for start, end in zip(starts, ends, strict=True)]
    return [np.resize(part, size) for part, size in zip(parts, frames, strict=True)]


def read_voiced_crops(utterances: Utterances, row: int, places: np.ndarray, frames: np.ndarray) -> list[np.ndarray]:
    """The same without what an energy VAD takes for silence; of a long recording all are from one minute of it."""
    length = int(utterances.num_samples[row])
    searched = min(length, MOST_SEARCHED)
    audio = without_silence(utterances.read(row, int(places[0] * (length - searched + 1)), searched))
    starts = (places * (np.maximum(len(audio) - frames, 0) + 1)).astype(np.int64)
    return [np.resize(audio[start : start + size], size) for start, size in zip(starts, frames, strict=True)]
