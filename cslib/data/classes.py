"""Classes of utterances, with the speaker and the fold of each: data/<corpus>/all/emotions.tsv.

Neither label-free training nor extraction opens that file. Fine-tuning, which is supervised, reads the classes of its
training speakers from a file of their own.

Folds are either those of a cross-validation, with any names, and each is held out once; or the parts of a published
split: one is called "train", one may be called "development", and the others are test sets.
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
INNER_FOLDS = 4  # of the training speakers, where there is one training fold


class Labelled(NamedTuple):
    """A line of the table."""

    utterance: str
    label: str
    speaker: str
    fold: str


class Split(NamedTuple):
    """One held-out fold and its training data, as rows of a table.

    fold   name of the held-out fold
    train  int [n]
    test   int [m], the rows of the held-out fold
    inner  pairs (fit, check) of rows of `train` or of the development fold, for choosing hyperparameters; fit and
           check share no speaker
    """

    fold: str
    train: np.ndarray
    test: np.ndarray
    inner: list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class ClassTable:
    """Arrays of str, each [n].

    Raises UserError when a speaker is in two folds, when there is one class only, or when no fold can be held out.
    """

    utterances: np.ndarray
    labels: np.ndarray
    speakers: np.ndarray
    folds: np.ndarray

    def __post_init__(self) -> None:
        fold_of: dict[str, str] = {}
        for speaker, fold in zip(self.speakers, self.folds, strict=True):
            if fold_of.setdefault(speaker, fold) != fold:
                raise UserError(
                    f"speaker {speaker} is in the folds {fold_of[speaker]} and {fold}, which "
                    "would test on a training speaker; put all utterances of a speaker into one fold"
                )
        if len(self.classes()) < 2:
            raise UserError(f"all {len(self.labels):,} utterances are of one class; give at least two classes")
        if not self.tested():
            raise UserError("there is no fold to test on besides the training folds; give more speakers")

    @classmethod
    def of(cls, rows: Iterable[Labelled]) -> ClassTable:
        """The table of these rows, in their order."""
        columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
        return cls(*(np.array(column, dtype=str) for column in columns))

    @classmethod
    def read(cls, path: Path) -> ClassTable:
        """Read what `write` wrote. Raises UserError for another table, and for one that lists an utterance twice."""
        columns = [list(read_column(path, column)) for column in COLUMNS[1:]]
        utterances = [utterance for utterance, _ in columns[0]]
        if len(set(utterances)) < len(utterances):
            twice = next(utterance for utterance, count in Counter(utterances).items() if count > 1)
            raise UserError(f"{path}: {twice} comes twice; prepare the data again")
        try:
            return cls(np.array(utterances), *(np.array([value for _, value in column]) for column in columns))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def write(self, path: Path) -> None:
        """Write the table, unless the file already says the same."""
        rows = zip(self.utterances, self.labels, self.speakers, self.folds, strict=True)
        lines = ["\t".join(row) for row in [COLUMNS, *rows]]
        if not path.exists() or path.read_text(encoding="utf-8").splitlines() != lines:
            write_lines(path, lines)

    def __len__(self) -> int:
        return len(self.utterances)

    def classes(self) -> list[str]:
        """Sorted names of the classes."""
        return sorted(set(self.labels))

    def tested(self) -> list[str]:
        """Sorted names of the folds that are held out, one after the other."""
        names = set(self.folds)
        return sorted(names - {TRAIN, DEVELOPMENT}) if TRAIN in names else sorted(names) if len(names) > 1 else []

    def splits(self) -> Iterator[Split]:
        """Yield a split for each held-out fold.

        Raises UserError when the only training fold has a single speaker.
        """
        for fold in self.tested():
            published = TRAIN in self.folds
            train = np.flatnonzero(self.folds == TRAIN if published else self.folds != fold)
            development = np.flatnonzero(self.folds == DEVELOPMENT)
            inner = [(train, development)] if published and len(development) else list(self._inner(train))
            yield Split(fold, train, np.flatnonzero(self.folds == fold), inner)

    def _inner(self, train: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each training fold held out once; where there is one only, its speakers in a few groups."""
        folds = np.unique(self.folds[train])
        if len(folds) > 1:
            for fold in folds:
                yield train[self.folds[train] != fold], train[self.folds[train] == fold]
            return
        speakers = self.speakers[train]
        count = min(INNER_FOLDS, len(np.unique(speakers)))
        if count < 2:
            raise UserError(
                f"fold {folds[0]} has one speaker only, but hyperparameters are chosen on speakers outside "
                "the training data; give more speakers"
            )
        for fit, check in GroupKFold(count).split(train, groups=speakers):
            yield train[fit], train[check]

    def counts(self) -> str:
        """A text table: the number of utterances of each class, and of speakers, in each fold."""
        folds = sorted(set(self.folds))
        found = Counter(zip(self.labels, self.folds, strict=True))
        cells = [["class", *folds, "all"]]
        for name in self.classes():
            numbers = [found[name, fold] for fold in folds]
            cells.append([name, *(f"{number:,}" for number in [*numbers, sum(numbers)])])
        speakers = [len(set(self.speakers[self.folds == fold])) for fold in folds]
        cells.append(["(speakers)", *(f"{number:,}" for number in [*speakers, sum(speakers)])])
        return aligned(cells)


def assign_folds(speakers: Iterable[str], count: int) -> dict[str, str]:
    """Assign speakers to `count` folds, "fold1", "fold2", ..., those with most utterances first, to the smallest fold.

    speakers  of every utterance
    The same speakers always get the same folds. Raises UserError unless 2 <= count <= number of speakers.
    """
    sizes = Counter(speakers)
    if len(sizes) == 1:
        raise UserError("all recordings are of one speaker; give at least two speakers")
    if not 2 <= count <= len(sizes):
        raise UserError(f"folds is {count}; it must be at least 2 and at most the number of speakers, {len(sizes):,}")
    filled = [0] * count
    fold_of = {}
    for speaker, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        fold = filled.index(min(filled))
        fold_of[speaker], filled[fold] = f"fold{fold + 1}", filled[fold] + size
    return fold_of
