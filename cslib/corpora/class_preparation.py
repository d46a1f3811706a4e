"""Sets of recordings with a class each: the manifests, and the table of classes, speakers and folds beside them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cslib.config import UserError
from cslib.corpora.audio_files import Checks
from cslib.corpora.preparation import Source, prepare_set
from cslib.data.classes import ClassTable, Labelled
from cslib.data.manifests import read_manifest
from cslib.files import warn

TABLE = "emotions.tsv"
# Of a published corpus nothing is left out for being short: figures are compared with those of others on all of it.
WHOLE = Checks(min_seconds=0.0)


class Recording(NamedTuple):
    """A recording to prepare, and what is known of it."""

    id: str
    path: str
    label: str
    speaker: str
    fold: str
    sex: str | None = None


def prepare_classes(folder: Path, recordings: Iterable[Recording], nj: int, checks: Checks = WHOLE) -> ClassTable:
    """Write data/<corpus>/<set> and its emotions.tsv from the usable recordings, and print their counts.

    recordings  in any order; their ids differ
    A run that was killed goes on where it was; a finished one is left as it is. Raises UserError for what
    `prepare_set` and `ClassTable` refuse, the latter before anything is made.
    """
    recordings = sorted(recordings)
    if not recordings:
        raise UserError(f"{folder}: there is no recording of the classes that are asked for; check the corpus folder")
    _table(recordings)
    audio = folder.absolute() / "audio"
    sources = (Source(one.id, one.path, str(audio / f"{one.id}.flac"), one.speaker, one.sex) for one in recordings)
    # Another speaker of the same recordings writes the lists anew; speakers themselves do not stand in the journal.
    columns = hashlib.blake2b(repr([(one.id, one.speaker, one.sex) for one in recordings]).encode()).hexdigest()[:16]
    print(prepare_set(folder, sources, checks, nj, total=len(recordings), columns=columns))
    usable = {item["id"] for item in read_manifest(folder / "cuts.jsonl.gz")}
    return write_classes(folder, _table(one for one in recordings if one.id in usable))


def write_classes(folder: Path, table: ClassTable) -> ClassTable:
    """Put the table beside the manifests, and print its counts."""
    table.write(folder / TABLE)
    print(table.counts())
    return table


def compare_counts(corpus: str, table: ClassTable, published: dict[str, int]) -> None:
    """Say whether there are as many of each class as published; a warning where there are not."""
    found = Counter(table.labels.tolist())
    if found == published:
        print(f"{corpus}: {len(table):,} utterances, as many of each class as published")
        return
    told = ", ".join(f"{found[name]:,} of {count:,} {name}" for name, count in published.items())
    warn(f"{corpus} has {len(table):,} of the {sum(published.values()):,} published utterances here ({told})")


def _table(recordings: Iterable[Recording]) -> ClassTable:
    return ClassTable.of(Labelled(one.id, one.label, one.speaker, one.fold) for one in recordings)
