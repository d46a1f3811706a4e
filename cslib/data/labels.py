"""Labels of utterances, one `utterance<TAB>label` a line under a header: pseudo-labels, or speakers where asked for."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cslib.config import UserError
from cslib.data.utterances import Utterances
from cslib.files import write_lines


def read_column(path: Path) -> Iterator[tuple[str, str]]:
    """(utterance, second column) of each line. Raises UserError naming the line that is not of this form."""
    try:
        file = open(path, encoding="utf-8", newline="")  # noqa: SIM115 (closed below)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file of labels") from None
    with file:
        for number, line in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), start=1):
            if len(line) < 2:
                raise UserError(f"{path}: line {number} is not `utterance<TAB>label`")
            if number > 1:
                yield line[0], line[1]


def read_labels(path: Path, utterances: Utterances) -> np.ndarray:
    """int64 [n] class of each utterance, numbered 0..classes-1 in the order of their names; -1 where there is none.

    A label of -1 in the file, or no line at all, means "no class". Raises UserError when no utterance has one.
    """
    names = dict(read_column(path))
    found = np.array([names.get(utterance, "-1") for utterance in utterances.ids()])
    labelled = found != "-1"
    if not labelled.any():
        raise UserError(f"{path}: none of the {len(utterances):,} utterances to train on has a label in it; "
                        "was it made for another data set?")
    labels = np.full(len(found), -1)
    labels[labelled] = np.unique(found[labelled], return_inverse=True)[1]
    return labels


def write_labels(path: Path, utterances: list[str], labels: np.ndarray) -> None:
    write_lines(path, ["utterance\tlabel", *(f"{utterance}\t{label}" for utterance, label
                                             in zip(utterances, labels, strict=True))])
