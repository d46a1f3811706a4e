"""Classes of utterances, with the speaker and the fold of each: data/<corpus>/all/emotions.tsv.

Nothing that learns without labels opens that file, nor does extraction. Fine-tuning, which is supervised, gets of it
the classes of its training speakers, in a file of their own.

Folds are either numbers of a cross-validation, any names, of which each is held out once; or parts of a published
split, of which one is called "train", perhaps one "development", and the others are tested on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import GroupKFold

from cslib.config import UserError
from cslib.data.labels import read_column
from cslib.files import aligned, write_lines

TRAIN, DEVELOPMENT = "train", "development"  # fold names of a published split
COLUMNS = ("utterance", "class", "speaker", "fold")
INNER_FOLDS = 4  # of the training speakers, where there are not two training folds or more


class Labelled(NamedTuple):
    """A line of the table."""

    utterance: str
    label: str
    speaker: str
    fold: str


class Split(NamedTuple):
    """One held-out fold and what may be learnt from for it, as row numbers of a table.

    inner  pairs (to fit on, to check on) for choosing settings; no speaker is in both, and no row is in `test`
    """

    fold: str
    train: np.ndarray
    test: np.ndarray
    inner: list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class ClassTable:
    """Arrays of str, each [n]. Raises UserError when a speaker is in two folds, or when there is nothing to learn."""

    utterances: np.ndarray
    labels: np.ndarray
    speakers: np.ndarray
    folds: np.ndarray

    def __post_init__(self) -> None:
        fold_of: dict[str, str] = {}
        for speaker, fold in zip(self.speakers, self.folds, strict=True):
            if fold_of.setdefault(speaker, fold) != fold:
                raise UserError(
                    f"speaker {speaker} is in the folds {fold_of[speaker]} and {fold}, and figures of a "
                    "classifier that has heard its test speakers say nothing; put all of a speaker in one"
                )
        if len(self.classes()) < 2:
            raise UserError(f"all {len(self.labels):,} utterances are of one class; give two classes or more")
        if not self.tested():
            raise UserError("there is no fold to test on beside those that are learnt from; give more speakers")

    @classmethod
    def of(cls, rows: Iterable[Labelled]) -> ClassTable:
        columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
        return cls(*(np.array(column, dtype=str) for column in columns))

    @classmethod
    def read(cls, path: Path) -> ClassTable:
        """What `write` wrote. Raises UserError for another table, or one with an utterance twice."""
        columns = [list(read_column(path, column)) for column in COLUMNS[1:]]
        utterances = [utterance for utterance, _ in columns[0]]
        if len(set(utterances)) < len(utterances):
            twice = next(utterance for utterance, count in Counter(utterances).items() if count > 1)
            raise UserError(f"{path}: {twice} comes twice; prepare the data again (stage 1)")
        try:
            return cls(np.array(utterances), *(np.array([value for _, value in column]) for column in columns))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def write(self, path: Path) -> None:
        """The file is left alone when it says the same already."""
        rows = zip(self.utterances, self.labels, self.speakers, self.folds, strict=True)
        lines = ["\t".join(row) for row in [COLUMNS, *rows]]
        if not path.exists() or path.read_text(encoding="utf-8").splitlines() != lines:
            write_lines(path, lines)

    def __len__(self) -> int:
        return len(self.utterances)

    def classes(self) -> list[str]:
        return sorted(set(self.labels))

    def tested(self) -> list[str]:
        """The folds that are held out, one after the other."""
        names = set(self.folds)
        return sorted(names - {TRAIN, DEVELOPMENT}) if TRAIN in names else sorted(names) if len(names) > 1 else []

    def splits(self) -> Iterator[Split]:
        """What is learnt from and what is tested on, for each fold that is held out."""
        for fold in self.tested():
            published = TRAIN in self.folds
            train = np.flatnonzero(self.folds == TRAIN if published else self.folds != fold)
            development = np.flatnonzero(self.folds == DEVELOPMENT)
            inner = [(train, development)] if published and len(development) else list(self._inner(train))
            yield Split(fold, train, np.flatnonzero(self.folds == fold), inner)

    def _inner(self, train: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The training folds, each held out once; of a single one its speakers, dealt into a few groups."""
        folds = np.unique(self.folds[train])
        if len(folds) > 1:
            for fold in folds:
                yield train[self.folds[train] != fold], train[self.folds[train] == fold]
            return
        speakers = self.speakers[train]
        count = min(INNER_FOLDS, len(np.unique(speakers)))
        if count < 2:
            raise UserError(
                f"fold {folds[0]} has one speaker only, and settings are chosen on speakers that were not "
                "learnt from; give more speakers"
            )
        for fit, check in GroupKFold(count).split(train, groups=speakers):
            yield train[fit], train[check]

    def counts(self) -> str:
        """How many utterances of each class are in each fold, in aligned columns."""
        folds = sorted(set(self.folds))
        found = Counter(zip(self.labels, self.folds, strict=True))
        cells = [["class", *folds, "all"]]
        for name in self.classes():
            numbers = [found[name, fold] for fold in folds]
            cells.append([name, *(f"{number:,}" for number in [*numbers, sum(numbers)])])
        speakers = [len(set(self.speakers[self.folds == fold])) for fold in folds]
        cells.append(["(speakers)", *(f"{number:,}" for number in [*speakers, sum(speakers)])])
        return aligned(cells)


def deal_speakers(speakers: Iterable[str], count: int) -> dict[str, str]:
    """The fold, "fold1" to "fold<count>", of each speaker: the ones with most utterances first, to the emptiest fold.

    speakers  of every utterance
    Equal speakers always get equal folds. Raises UserError when there are fewer speakers than folds, or only one.
    """
    sizes = Counter(speakers)
    if len(sizes) == 1:
        raise UserError("all recordings are of one speaker; give two or more")
    if not 2 <= count <= len(sizes):
        raise UserError(
            f"folds: {count} will not do for {len(sizes):,} speakers; give at least 2, and no more than "
            "there are speakers"
        )
    filled = [0] * count
    fold_of = {}
    for speaker, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        fold = filled.index(min(filled))
        fold_of[speaker], filled[fold] = f"fold{fold + 1}", filled[fold] + size
    return fold_of
