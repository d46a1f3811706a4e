"""Labels of utterances: a column of a table, `utterance<TAB>label` when it comes from clustering; -1 means rejected."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from cslib.config import UserError
from cslib.data.utterances import Utterances
from cslib.files import write_lines


def read_column(path: Path, column: str) -> Iterator[tuple[str, str]]:
    """Yield (utterance, value in `column`) of each line.

    Raises UserError when the file is absent, is not UTF-8, lacks the column or has a line without a value.
    """
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
    """The label of each utterance in the file.

    Raises UserError as `read_column` does, and when an utterance has two labels.
    """
    table: dict[str, str] = {}
    for utterance, label in read_column(path, column):
        if table.setdefault(utterance, label) != label:
            raise UserError(f"{path}: {utterance} has two labels, {table[utterance]} and {label}; make it again")
    return table


def read_labels(path: Path, utterances: Utterances, column: str = "label") -> np.ndarray:
    """`numbered_labels` of the utterances of a set, in their order there."""
    return numbered_labels(path, utterances.ids(), column)


def numbered_labels(path: Path, ids: Sequence[str], column: str = "label") -> np.ndarray:
    """Class of each utterance, int64 [n], numbered from 0; -1 where the file says -1 or does not list the utterance.

    The column is named by the caller, so speakers cannot be mistaken for pseudo-labels.
    Raises UserError as `read_table` does, and when no utterance has a class.
    """
    names = read_table(path, column)
    found = np.array([names.get(utterance, "-1") for utterance in ids])
    labelled = found != "-1"
    if not labelled.any():
        raise UserError(
            f"{path}: none of the {len(ids):,} utterances to train on has a {column} "
            "in it; give the file that was made for this set"
        )
    labels = np.full(len(found), -1)
    labels[labelled] = np.unique(found[labelled], return_inverse=True)[1]
    return labels


def write_labels(path: Path, ids: Sequence[str], labels: Iterable[int]) -> None:
    """Write `utterance<TAB>label` for each id; -1 means rejected."""
    lines = [f"{name}\t{label}" for name, label in zip(ids, labels, strict=True)]
    write_lines(path, ["utterance\tlabel", *lines])
