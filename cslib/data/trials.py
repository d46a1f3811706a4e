"""Trial lists: which utterance is compared with which, and whether one speaker says both.

Two formats are read; the first line of the file decides which:

    Kaldi       enrol test target|nontarget
    VoxCeleb    1|0 enrol test        with ids like id10270/x6uYqmx31kE/00001.wav -> id10270-x6uYqmx31kE-00001
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cslib.config import UserError
from cslib.files import write_lines

CHUNK_BYTES = 1 << 18  # text that is parsed at a time
IS_SPACE = np.isin(np.arange(256), list(b" \t\n\r\x0b\x0c"))  # what bytes.split() splits at


@dataclass
class Trials:
    """A trial list as indices into its distinct utterances, 9 bytes per trial.

    ids           the distinct utterance ids
    enrol_index   [n] int32, rows of `ids`
    test_index    [n] int32, rows of `ids`
    targets       [n] bool
    """

    ids: list[str]
    enrol_index: np.ndarray
    test_index: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def enrol(self) -> list[str]:
        """[n] enrolment utterance ids."""
        return [self.ids[row] for row in self.enrol_index]

    @property
    def test(self) -> list[str]:
        """[n] test utterance ids."""
        return [self.ids[row] for row in self.test_index]

    def rows_in(self, ids: Sequence[str], where: str) -> np.ndarray:
        """int64 [len(self.ids)]: the row in `ids` of every utterance of the trials.

        Raises UserError, naming the file `where`, when `ids` lacks some of them.
        """
        row_of = {name: row for row, name in enumerate(ids)}
        unknown = [name for name in self.ids if name not in row_of]
        if unknown:
            first = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
            raise UserError(
                f"{where}: lacks {len(unknown):,} of the {len(self.ids):,} utterances that the "
                f"trials name ({first}); give the file that belongs to this trial list"
            )
        return np.array([row_of[name] for name in self.ids], dtype=np.int64)


def read_trials(path: Path | str) -> Trials:
    """Read a trial list in either format. Raises UserError that names the file and a malformed line."""
    style = _style(path)
    index, enrol, test, targets = numbering(), [], [], []
    for number, columns in read_columns(path, style.fields):
        labels = columns.pop(style.label)
        if not style.labels.keys() >= set(labels):
            raise _bad_label(path, number, style)
        enrol.append(numbers_of(columns[0], index))
        test.append(numbers_of(columns[1], index))
        targets.append(np.array([style.labels[label] for label in labels]))
    ids = [name.decode(errors="replace") for name in index]
    ids, row = _merged([voxceleb_id(name) for name in ids] if style is VOXCELEB else ids)
    return Trials(ids, row[np.concatenate(enrol)], row[np.concatenate(test)], np.concatenate(targets))


def write_trials(path: Path | str, enrol: Iterable[str], test: Iterable[str], targets: Iterable[bool]) -> int:
    """Write a Kaldi-style trial list and return its length. Raises ValueError when the lengths differ."""
    return write_lines(
        path,
        (
            f"{one} {other} {'target' if same else 'nontarget'}"
            for one, other, same in zip(enrol, test, targets, strict=True)
        ),
    )


def voxceleb_id(path: str) -> str:
    """id10270/x6uYqmx31kE/00001.wav -> id10270-x6uYqmx31kE-00001; what is not a path stays as it is."""
    return path.removesuffix(".wav").removesuffix(".m4a").removesuffix(".flac").replace("/", "-")


def read_columns(path: Path | str, fields: str) -> Iterator[tuple[int, list[list[bytes]]]]:
    """Stream the columns of a text file whose lines have as many words as `fields`; empty lines are skipped.

    Yields (number of the chunk's first line, columns). Raises UserError for a line with another number of words, for
    a file without lines and for one that cannot be read.
    """
    width, number, empty = len(fields.split()), 1, True
    try:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES) + file.readline():
                lengths = _words_per_line(chunk)
                if bad := np.flatnonzero((lengths != width) & (lengths != 0)).tolist():
                    raise UserError(
                        f"{path}: line {number + bad[0]} has {lengths[bad[0]]} words instead of "
                        f"{width}; expected a line like `{fields}`"
                    )
                if words := chunk.split():
                    empty = False
                    yield number, [words[column::width] for column in range(width)]
                number += chunk.count(b"\n")
    except OSError as error:
        raise UserError(f"{path}: could not be read ({error.strerror}); check the path") from None
    if empty:
        raise UserError(f"{path}: is empty; expected lines like `{fields}`")


def numbering() -> dict[bytes, int]:
    """A dictionary that numbers its keys from 0 in the order in which they are first looked up."""
    index: defaultdict[bytes, int] = defaultdict()
    index.default_factory = index.__len__
    return index


def numbers_of(names: list[bytes], index: dict[bytes, int]) -> np.ndarray:
    """int32 [n]: the numbers of the names in a `numbering`."""
    return np.fromiter(map(index.__getitem__, names), dtype=np.int32, count=len(names))


@dataclass
class _Style:
    fields: str
    label: int  # column of the label
    labels: dict[bytes, bool]


KALDI = _Style("enrol test target|nontarget", 2, {b"target": True, b"nontarget": False})
VOXCELEB = _Style("1|0 enrol test", 0, {b"1": True, b"0": False})


def _style(path: Path | str) -> _Style:
    _, columns = next(read_columns(path, KALDI.fields))
    return VOXCELEB if columns[0][0] in VOXCELEB.labels and columns[2][0] not in KALDI.labels else KALDI


def _words_per_line(chunk: bytes) -> np.ndarray:
    """[lines] number of words, as bytes.split() would find them; what follows the last newline counts too."""
    letters = np.frombuffer(chunk, dtype=np.uint8)
    space = IS_SPACE[letters]
    begins = np.flatnonzero(~space & np.concatenate([[True], space[:-1]]))
    ends = np.append(np.flatnonzero(letters == ord("\n")), len(letters))
    return np.diff(np.searchsorted(begins, ends), prepend=0)


def _bad_label(path: Path | str, number: int, style: _Style) -> UserError:
    """The error about the first line from `number` on whose label the style does not have."""
    with open(path, "rb") as file:
        for at, line in enumerate(file, start=1):
            words = line.split()
            if at >= number and words and words[style.label] not in style.labels:
                label = words[style.label].decode(errors="replace")
                return UserError(f"{path}: line {at} has the label {label!r}; expected a line like `{style.fields}`")
    raise AssertionError("called for a chunk without a bad label")


def _merged(names: list[str]) -> tuple[list[str], np.ndarray]:
    """(the distinct names, int32 [n]: the place of each name there)."""
    place: dict[str, int] = {}
    row = np.array([place.setdefault(name, len(place)) for name in names], dtype=np.int32)
    return list(place), row
