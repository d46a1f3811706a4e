"""Mixtures of utterances, every item a pure function of (seed, index): resuming needs no sampler state.

Training walks through *cells*: random subsets of the identities. Within a cell every identity is drawn
`views` times per pass, each time in another mixture, so that each of its embeddings meets another interferer
and another degradation. A cell as large as the corpus gives plain epochs; a cell as large as a batch gives
batches that compare the utterances in them with each other and nothing else.
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
from cslib.datasets.augmentation import AugmentConfig, draw_channel, draw_degradation


@dataclass
class MixtureConfig:
    streams: int = 2  # C, talkers in a mixture
    crop_seconds: float = 3.0  # length of a mixture
    sir_db: tuple[float, float] = (0.0, 5.0)  # how much louder the first talker is, drawn uniformly
    single_p: float = 0.2  # share of mixtures in which only the first talker speaks


class Mixtures(Dataset):
    """Crops of `streams` different identities, with all that is needed to degrade and mix them on the device.

    views   crops of each utterance per pass
    cell    identities that are drawn together; one cell of all of them when there are no more, or with labels
    passes  over a cell before the next one is drawn; without end when there is but one
    labels  int64 [n] identity of each utterance, -1 = speaks but has none; None: each utterance is its own

    An item holds: sources int16 [C, T]; channel [C, K], noise int16 [C, T], snr [C] and rir [C, R] of each;
    sir [C-1]; active bool [C]; identity int64 [C] within the cell (-1: none); origin int64 [C], what must not
    serve as a key (the mixture when each utterance is its own identity, else the utterance); view int64 [C];
    ids, the utterances' names.

    Raises UserError when there are fewer identities than talkers in a mixture.
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
                f"objective.mixtures: {found} identities are too few for mixtures of "
                f"{config.streams} different ones; train on more data"
            )
        self.per_round = -(-self.cell // config.streams)
        # Whole batches, so that no batch lies astride two passes.
        self.per_pass = -(-views * self.per_round // batch_size) * batch_size
        self._pass: tuple[int, np.ndarray, np.ndarray] | None = None

    @property
    def identities(self) -> int:
        """N: how many identities are told apart."""
        return self.cell if self.labels is None else int(self.labels.max()) + 1

    def first_pass_of_cell(self, pass_number: int) -> bool:
        """Whether no embedding of this pass's cell has been seen before it."""
        return pass_number == 0 if self.cells == 1 else pass_number % self.passes == 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        pass_number, position = divmod(index, self.per_pass)
        members, order = self._pass_plan(pass_number)
        view, group = divmod(position % (self.views * self.per_round), self.per_round)
        slots = order[view, group]  # [C] within the cell
        rows = members[slots]
        rng = np.random.default_rng([self.seed, index])
        noise, snr, rir = self._degradations(rng)
        single = rng.random() < self.config.single_p
        identity = slots if self.labels is None else self.labels[rows]
        return {
            "sources": np.stack([self._crop(row, view, pass_number, rng) for row in rows]),
            "noise": noise,
            "snr": snr,
            "rir": rir,
            "sir": rng.uniform(*self.config.sir_db, len(rows) - 1).astype(np.float32),
            "channel": np.stack([draw_channel(rng, self.augment) for _ in rows]),
            "active": np.array([True] + [not single] * (len(rows) - 1)),
            "identity": identity.astype(np.int64),
            "origin": np.full(len(rows), index) if self.labels is None else rows.astype(np.int64),
            "view": np.full(len(rows), view),
            "ids": " ".join(self.utterances.ids(rows)),
        }

    def _degradations(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        # Each source has a room and a noise of its own: two crops of an utterance share channel and room, the
        # cheapest cue there is, and this is what blurs it.
        drawn = [draw_degradation(rng, self.banks, self.augment, self.frames) for _ in range(self.config.streams)]
        return (
            np.stack([d.noise for d in drawn]),
            np.array([d.snr for d in drawn], np.float32),
            np.stack([d.rir for d in drawn]),
        )

    def _crop(self, row: int, view: int, pass_number: int, rng: np.random.Generator) -> np.ndarray:
        """int16 [T]; crops of a pass come from different stretches of the utterance if it is long enough."""
        length, views = int(self.utterances.num_samples[row]), self.views
        if length < self.frames:
            return np.resize(self.utterances.read(row), self.frames)
        low, high = 0, length - self.frames
        if length >= views * self.frames:
            stretch = (view + pass_number) % views
            low, high = stretch * length // views, (stretch + 1) * length // views - self.frames
        return self.utterances.read(row, int(rng.integers(low, high + 1)), self.frames)

    def _pass_plan(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the cell's utterances, and per view which of them are mixed: [cell], [views, groups, C]."""
        if self._pass is None or self._pass[0] != number:
            cell = number // self.passes if self.cells > 1 else 0
            epoch, place = divmod(cell, self.cells)
            # Items have seeds of two numbers; a third one, other than 0, keeps plans apart from them.
            shuffled = np.random.default_rng([self.seed, epoch, 1]).permutation(len(self.utterances))
            members = shuffled[(place * self.cell + np.arange(self.cell)) % len(shuffled)]
            rng = np.random.default_rng([self.seed, number, 2])
            order = np.stack([self._groups(members, rng) for _ in range(self.views)])
            self._pass = number, members, order
        return self._pass[1:]

    def _groups(self, members: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Every member once (a few twice, to fill the last group), in groups [groups, C] of different ones.

        Labels that one identity has too large a share of leave no such grouping: some of its members then
        give way to others in this pass.
        """
        order = np.resize(rng.permutation(len(members)), (self.per_round, self.config.streams))
        if self.labels is None:
            return order
        labels = self.labels[members]
        labels = np.where(labels < 0, -1 - np.arange(len(labels)), labels)  # none: not two of the same
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
    """[groups, C] -> bool [groups]: the same identity twice."""
    ordered = np.sort(labels, axis=1)
    return (ordered[:, 1:] == ordered[:, :-1]).any(1)


def _replace_clashes(order: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> None:
    """Keep the first of each group that clashes; draw the others anew from the identities not yet in it."""
    free: dict[tuple[int, ...], np.ndarray] = {}  # the same few identities clash again and again
    for group in np.flatnonzero(_clashes(labels[order])):
        for place in range(1, order.shape[1]):
            taken = tuple(sorted(labels[order[group, :place]].tolist()))
            if taken not in free:
                free[taken] = np.flatnonzero(~np.isin(labels, taken))
            order[group, place] = rng.choice(free[taken])
