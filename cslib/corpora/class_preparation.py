"""Sets of labelled recordings: the manifests, and a table of class, speaker and fold beside them."""

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
# Results on a published corpus are compared with those of others, so no recording is left out for being short.
WHOLE = Checks(min_seconds=0.0)


class Recording(NamedTuple):
    """A recording to prepare, with its class `label`, speaker and fold."""

    id: str
    path: str
    label: str
    speaker: str
    fold: str
    sex: str | None = None


def prepare_classes(folder: Path, recordings: Iterable[Recording], nj: int, checks: Checks = WHOLE) -> ClassTable:
    """Write data/<corpus>/<set> and its emotions.tsv from the usable recordings, and print their counts.

    recordings  in any order, with distinct ids
    nj          number of processes
    A killed run continues where it was; a finished set stays as it is. Raises UserError as `prepare_set` and
    `ClassTable` do, the latter before anything is written, and when there is no recording.
    """
    recordings = sorted(recordings)
    if not recordings:
        raise UserError(f"{folder}: there is no recording of any of the classes; check the corpus folder")
    _table(recordings)
    audio = folder.absolute() / "audio"
    sources = (Source(one.id, one.path, str(audio / f"{one.id}.flac"), one.speaker, one.sex) for one in recordings)
    # The journal does not hold the speakers: with this digest, changed speakers make the lists be written again.
    columns = hashlib.blake2b(repr([(one.id, one.speaker, one.sex) for one in recordings]).encode()).hexdigest()[:16]
    print(prepare_set(folder, sources, checks, nj, total=len(recordings), columns=columns))
    usable = {item["id"] for item in read_manifest(folder / "cuts.jsonl.gz")}
    return write_classes(folder, _table(one for one in recordings if one.id in usable))


def write_classes(folder: Path, table: ClassTable) -> ClassTable:
    """Write the table beside the manifests of `folder`, print its counts and return it."""
    table.write(folder / TABLE)
    print(table.counts())
    return table


def compare_counts(corpus: str, table: ClassTable, published: dict[str, int]) -> None:
    """Print whether each class has as many utterances as published, or warn when some have not.

    published  number of utterances by class
    """
    found = Counter(table.labels.tolist())
    if found == published:
        print(f"{corpus}: {len(table):,} utterances, as many of each class as published")
        return
    told = ", ".join(f"{found[name]:,} of {count:,} {name}" for name, count in published.items())
    warn(f"{corpus} has {len(table):,} of the {sum(published.values()):,} published utterances here ({told})")


def _table(recordings: Iterable[Recording]) -> ClassTable:
    return ClassTable.of(Labelled(one.id, one.label, one.speaker, one.fold) for one in recordings)
