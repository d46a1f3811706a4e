"""Labels of utterances, a column of a table: `utterance<TAB>label` from clustering, -1 = rejected."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from cslib.config import UserError
from cslib.data.utterances import Utterances
from cslib.files import write_lines


def read_column(path: Path, column: str) -> Iterator[tuple[str, str]]:
    """(utterance, its value in `column`) of each line. Raises UserError when the file has no such column."""
    try:
        file = open(path, encoding="utf-8", newline="")  # noqa: SIM115 (closed below)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file of labels") from None
    try:
        with file:
            table = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            if not {"utterance", column} <= set(table.fieldnames or []):
                raise UserError(f"{path}: its first line does not name the columns utterance and {column}")
            for line in table:
                if not line["utterance"] or not line[column]:
                    raise UserError(f"{path}: line {table.line_num} is not `utterance<TAB>{column}`")
                yield line["utterance"], line[column]
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8; make it again") from None


def read_table(path: Path, column: str = "label") -> dict[str, str]:
    """Label of each utterance in the file. Raises UserError when an utterance has two."""
    table: dict[str, str] = {}
    for utterance, label in read_column(path, column):
        if table.setdefault(utterance, label) != label:
            raise UserError(f"{path}: {utterance} has two labels, {table[utterance]} and {label}; make it again")
    return table


def read_labels(path: Path, utterances: Utterances, column: str = "label") -> np.ndarray:
    """`numbered_labels` of the utterances of a set, in its order."""
    return numbered_labels(path, utterances.ids(), column)


def numbered_labels(path: Path, ids: Sequence[str], column: str = "label") -> np.ndarray:
    """int64 [n] class of each utterance, numbered 0..classes-1; -1 where the file says -1 or nothing.

    The column has to be asked for by name: speakers cannot be mistaken for pseudo-labels.
    Raises UserError when no utterance has a class.
    """
    names = read_table(path, column)
    found = np.array([names.get(utterance, "-1") for utterance in ids])
    labelled = found != "-1"
    if not labelled.any():
        raise UserError(
            f"{path}: none of the {len(ids):,} utterances to train on has a {column} "
            "in it; was it made for another data set?"
        )
    labels = np.full(len(found), -1)
    labels[labelled] = np.unique(found[labelled], return_inverse=True)[1]
    return labels


def write_labels(path: Path, ids: Sequence[str], labels: Iterable[int]) -> None:
    lines = [f"{name}\t{label}" for name, label in zip(ids, labels, strict=True)]
    write_lines(path, ["utterance\tlabel", *lines])
