"""Mixtures of utterances of different identities.

Training proceeds through *cells*, random subsets of the identities. In each pass over a cell every identity is drawn
`views` times, in different mixtures: its embeddings have different interferers and augmentations. A cell as large as
the corpus gives ordinary epochs; a cell as large as a batch gives batches that contrast only the utterances in them.
"""

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
from cslib.datasets.epoch import item_generator, shuffled


@dataclass
class MixtureConfig:
    streams: int = 2  # C, speakers in a mixture
    crop_seconds: float = 3.0  # length of a mixture
    sir_db: tuple[float, float] = (0.0, 5.0)  # level of the first speaker over each other one, drawn uniformly
    single_p: float = 0.2  # probability that only the first speaker is active


class Mixtures(Dataset[dict[str, Any]]):
    """Crops of `streams` different identities, with what to apply to them and how to mix them on the device.

    views   crops of each utterance per pass
    cell    identities per cell; there is one cell of all utterances if they are no more, or with labels
    passes  passes over a cell before the next one; a single cell is used throughout
    labels  int64 [n], identity of each utterance, -1 for none (it is still mixed in); None: each utterance is one

    Item i is a function of (seed, i) alone, for every i >= 0. It holds

    sources   int16 [C, T]
    channel   float32 [C, K]; with noise int16 [C, T], snr float32 [C] and rir float32 [C, R], see
              cslib/datasets/augmentation.py
    sir       float32 [C - 1], level of the first source over each other one in dB
    active    bool [C], whether a source is part of the mixture
    identity  int64 [C], identity within the cell, -1 for none
    origin    int64 [C]; keys of the same origin are no negatives: the mixture, or with labels the utterance
    view      int64 [C], number of the view
    ids       names of the utterances, separated by a space

    Raises UserError when there are fewer identities than speakers in a mixture.
    """

    def __init__(
        self,
        utterances: Utterances,
        banks: Banks,
        config: MixtureConfig,
        augment: AugmentConfig,
        batch_size: int,
        seed: int,
        *,
        views: int,
        cell: int,
        passes: int,
        labels: np.ndarray | None = None,
    ) -> None:
        self.utterances, self.banks, self.config, self.augment = utterances, banks, config, augment
        self.views, self.passes, self.labels, self.seed = views, passes, labels, seed
        self.frames = round(config.crop_seconds * SAMPLE_RATE)
        self.cell = len(utterances) if labels is not None else min(cell, len(utterances))
        self.cells = -(-len(utterances) // self.cell)
        found = self.cell if labels is None else len(np.unique(labels[labels >= 0])) + int((labels < 0).sum())
        if found < config.streams:
            raise UserError(
                f"objective.mixtures.streams is {config.streams}, for which {found} identities are too few; "
                "train on more data"
            )
        self.per_round = -(-self.cell // config.streams)
        # Whole batches: no batch spans two passes.
        self.per_pass = -(-views * self.per_round // batch_size) * batch_size
        self._pass: tuple[int, np.ndarray, np.ndarray] | None = None

    @property
    def identities(self) -> int:
        """N, number of identities."""
        return self.cell if self.labels is None else int(self.labels.max()) + 1

    def first_pass_of_cell(self, pass_number: int) -> bool:
        """Whether this pass is the first one over its cell."""
        return pass_number == 0 if self.cells == 1 else pass_number % self.passes == 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        pass_number, position = divmod(index, self.per_pass)
        members, order = self._pass_plan(pass_number)
        view, group = divmod(position % (self.views * self.per_round), self.per_round)
        slots = order[view, group]  # [C] within the cell
        rows = members[slots]
        rng = item_generator(self.seed, index)
        drawn = self._augmentations(rng)
        single = rng.random() < self.config.single_p
        identity = slots if self.labels is None else self.labels[rows]
        return {
            **drawn,
            "sources": np.stack([self._crop(row, view, pass_number, rng) for row in rows]),
            "sir": rng.uniform(*self.config.sir_db, len(rows) - 1).astype(np.float32),
            "channel": np.stack([draw_channel(rng, self.augment) for _ in rows]),
            "active": np.array([True] + [not single] * (len(rows) - 1)),
            "identity": identity.astype(np.int64),
            "origin": np.full(len(rows), index) if self.labels is None else rows.astype(np.int64),
            "view": np.full(len(rows), view),
            "ids": " ".join(self.utterances.ids(rows)),
        }

    def _augmentations(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Values [C, ...], drawn for each source by itself: a common RIR or noise would be an easy cue."""
        drawn = [draw_augmentations(rng, self.banks, self.augment, self.frames) for _ in range(self.config.streams)]
        return {key: np.stack([one[key] for one in drawn]) for key in drawn[0]}

    def _crop(self, row: int, view: int, pass_number: int, rng: np.random.Generator) -> np.ndarray:
        """int16 [T]; the crops of a pass come from different parts of the utterance if it is long enough."""
        length, views = int(self.utterances.num_samples[row]), self.views
        if length < self.frames:
            return np.resize(self.utterances.read(row), self.frames)
        low, high = 0, length - self.frames
        if length >= views * self.frames:
            part = (view + pass_number) % views
            low, high = part * length // views, (part + 1) * length // views - self.frames
        return self.utterances.read(row, int(rng.integers(low, high + 1)), self.frames)

    def _pass_plan(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the cell's utterances [cell], and which of them are mixed in each view [views, groups, C]."""
        if self._pass is None or self._pass[0] != number:
            cell = number // self.passes if self.cells > 1 else 0
            epoch, place = divmod(cell, self.cells)
            rows = shuffled(len(self.utterances), self.seed, epoch)
            members = rows[(place * self.cell + np.arange(self.cell)) % len(rows)]
            rng = np.random.default_rng([self.seed, number, 2])  # independent of items and epochs: see epoch.py
            order = np.stack([self._groups(members, rng) for _ in range(self.views)])
            self._pass = number, members, order
        return self._pass[1], self._pass[2]

    def _groups(self, members: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Groups [groups, C] of different identities: every member once, a few twice to fill the last group.

        No such grouping exists when one identity has too many members; others then replace some of them in this pass.
        """
        order = np.resize(rng.permutation(len(members)), (self.per_round, self.config.streams))
        if self.labels is None:
            return order
        labels = self.labels[members]
        labels = np.where(labels < 0, -1 - np.arange(len(labels)), labels)  # without a label: an identity of its own
        for _ in range(100):
            clash = np.flatnonzero(_clashes(labels[order]))
            if not len(clash):
                return order
            others = rng.integers(len(order), size=len(clash))
            columns = rng.integers(order.shape[1], size=len(clash))
            for mine, other, column in zip(clash, others, columns, strict=True):
                order[[mine, other], column] = order[[other, mine], column]
        _replace_clashes(order, labels, rng)
        return order


def _clashes(labels: np.ndarray) -> np.ndarray:
    """labels [groups, C] -> bool [groups]: whether an identity occurs twice."""
    ordered = np.sort(labels, axis=1)
    return (ordered[:, 1:] == ordered[:, :-1]).any(1)


def _replace_clashes(order: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> None:
    """Keep the first member of each clashing group; replace the others by random members of other identities."""
    free: dict[tuple[int, ...], np.ndarray] = {}  # the same few identities clash repeatedly
    for group in np.flatnonzero(_clashes(labels[order])):
        for place in range(1, order.shape[1]):
            taken = tuple(sorted(labels[order[group, :place]].tolist()))
            if taken not in free:
                free[taken] = np.flatnonzero(~np.isin(labels, taken))
            order[group, place] = rng.choice(free[taken])
