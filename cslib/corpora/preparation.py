"""Prepare a set from a list of recordings, in parallel; a killed run continues where it was.

The journal (data/<set>/journal.jsonl) has one line for each recording: path, size, time of change and result. Journal
and recordings are both in the order of the ids, so they are read side by side and neither is held in memory.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from cslib.config import UserError
from cslib.corpora.audio_files import UNREADABLE, Checks, examine
from cslib.data.manifests import MANIFESTS, SAMPLE_RATE, Entry, write_set
from cslib.files import progress, writing
from cslib.parallel import CHUNK, in_order

MAX_UNREADABLE = 0.05  # a larger share of unreadable files means that the copy of the corpus is damaged


class Source(NamedTuple):
    """A recording to prepare, and the speaker columns of its entry.

    target  path of its 16 kHz mono copy, in case it has to be converted
    """

    id: str
    path: str
    target: str
    speaker: str | None = None
    sex: str | None = None
    session: str | None = None


class Record(NamedTuple):
    """A line of the journal: a file, and what `examine` found."""

    id: str
    path: str
    size: int
    mtime_ns: int
    audio: str
    num_samples: int
    reason: str
    change: str


@dataclass
class Summary:
    """What was found, and what this run did. `str` gives a sentence.

    utterances  number of usable recordings
    samples     their total length, at 16 kHz
    speakers    names
    rejected    (path, reason)
    reasons     number of rejected recordings by kind of reason
    changes     number of usable recordings that are conversions, by reason for converting
    work        number of recordings "converted" by this run, "examined" (only read) and "known" from the journal
    unchanged   whether the set was complete before
    what        what `utterances` counts, when these are cut into the utterances of the set
    """

    folder: Path
    utterances: int = 0
    samples: int = 0
    speakers: set[str] = field(default_factory=set)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    work: Counter[str] = field(default_factory=Counter)
    unchanged: bool = False
    what: str = "utterances"

    def reject(self, path: str, reason: str) -> None:
        """Count a rejected recording."""
        self.rejected.append((path, reason))
        self.reasons[reason.partition(":")[0]] += 1

    def __str__(self) -> str:
        speakers = f" of {len(self.speakers):,} speakers" if self.speakers else ""
        hours = self.samples / SAMPLE_RATE / 3600
        text = f"{self.folder}: {self.utterances:,} {self.what}{speakers}, {hours:,.2f} h"
        if self.changes:
            text += f"; {_counts(self.changes)} as 16 kHz mono, {self.work['converted']:,} made now"
        if self.rejected:
            text += f"; {_counts(self.reasons)} rejected, see rejected.tsv"
        return text + ("; complete already, nothing to do" if self.unchanged else "")


def prepare_set(
    folder: Path,
    sources: Iterable[Source],
    checks: Checks,
    nj: int,
    total: int | None = None,
    columns: str = "",
    left_out: Iterable[tuple[str, str]] = (),
    cut: Callable[[list[Entry], Summary], Iterator[Entry]] | None = None,
) -> Summary:
    """Examine the recordings and write data/<set> from the usable ones.

    sources   in strictly ascending order of id
    nj        number of processes
    total     number of recordings, for the progress bar
    columns   identifies where the speaker columns come from; when it differs from the last run's, the lists are
              written again
    left_out  (path, reason) of recordings that were rejected beforehand
    cut       gives the utterances of the usable recordings (None: each recording is one); how belongs in `columns`
    A killed run continues where it was; a finished set stays as it is, byte for byte.
    Raises UserError, and writes no list, when no recording is usable or when more than 5 % cannot be read.
    """
    summary = Summary(folder, what="recordings" if cut else "utterances")
    for path, reason in left_out:
        summary.reject(path, reason)
    with suppress(_Unchanged):
        write_set(folder, _entries(folder, sources, checks, nj, total, columns, summary, cut), summary.rejected)
    return summary


class Journal:
    """The journal of one set: what earlier runs found, and what this run finds.

    folder    of the set
    settings  a journal that was written with other settings is ignored
    A run writes journal.partial.jsonl, which replaces journal.jsonl when the run ends. What a killed run has left is
    merged into journal.jsonl first.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.path, self.partial = folder / "journal.jsonl", folder / "journal.partial.jsonl"
        self.settings = json.dumps(settings, sort_keys=True)
        self.length = 0  # records that `known` has yielded
        self.interrupted = self.partial.exists()  # so the lists on disk may be older than journal.jsonl
        if self.interrupted:
            with writing(self.path) as temporary, open(temporary, "w", encoding="utf-8") as file:
                file.write(self.settings + "\n")
                file.writelines(map(_line, self._merged()))
            self.partial.unlink()

    def known(self) -> Iterator[Record]:
        """Yield the records of earlier runs, in the order of the ids."""
        for record in self._read(self.path):
            self.length += 1
            yield record

    def recorded(self, results: Iterable[tuple[Source, Record, str]]) -> Iterator[tuple[Source, Record, str]]:
        """Write the record of each result, then yield the result."""
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        with open(self.partial, "w", encoding="utf-8") as file:
            file.write(self.settings + "\n")
            for number, result in enumerate(results):
                file.write(_line(result[1]))
                if number % CHUNK == 0:
                    file.flush()
                yield result

    def finish(self) -> None:
        """Put the journal of this run in the place of the old one."""
        os.replace(self.partial, self.path)

    def _merged(self) -> Iterator[Record]:
        last = ""
        for record in self._read(self.partial):
            last = record.id
            yield record
        for record in self._read(self.path):
            if record.id > last:
                yield record

    def _read(self, path: Path) -> Iterator[Record]:
        if not path.exists():
            return
        with open(path, encoding="utf-8", errors="replace") as lines:
            if next(lines, "").rstrip("\n") != self.settings:
                return
            for line in lines:
                try:
                    record = Record(*json.loads(line))
                except (ValueError, TypeError):
                    return  # cut off where a run was killed, or damaged: what follows is examined again
                yield record


class _Unchanged(Exception):
    """Every recording was known, so the lists on disk are up to date."""


def _entries(
    folder: Path,
    sources: Iterable[Source],
    checks: Checks,
    nj: int,
    total: int | None,
    columns: str,
    summary: Summary,
    cut: Callable[[list[Entry], Summary], Iterator[Entry]] | None,
) -> Iterator[Entry]:
    journal = Journal(folder, {**asdict(checks), "columns": columns})
    tasks = _with_known(sources, journal.known())
    results = in_order(partial(_process, checks=checks), tasks, nj)
    results = journal.recorded(progress(results, f"examining {folder.name}", total=total))
    usable = _usable(results, summary)
    whole = list(usable) if cut else []
    yield from usable  # nothing is left of it if they are to be cut
    _refuse_when_broken(summary)
    same = summary.work["known"] == summary.work.total() == journal.length
    lists = all((folder / f"{name}.jsonl.gz").exists() for name in MANIFESTS)
    summary.unchanged = same and lists and not journal.interrupted
    if cut and not summary.unchanged:
        yield from cut(whole, summary)
    journal.finish()
    if summary.unchanged:
        raise _Unchanged


def _usable(results: Iterable[tuple[Source, Record, str]], summary: Summary) -> Iterator[Entry]:
    """Count every recording, and yield those that are not rejected."""
    for source, record, work in results:
        summary.work[work] += 1
        if record.reason:
            summary.reject(record.path, record.reason)
            continue
        summary.utterances, summary.samples = summary.utterances + 1, summary.samples + record.num_samples
        if record.change:
            summary.changes[record.change] += 1
        if source.speaker is not None:
            summary.speakers.add(source.speaker)
        yield Entry(source.id, record.audio, record.num_samples, source.speaker, source.sex, source.session)


def _with_known(sources: Iterable[Source], records: Iterator[Record]) -> Iterator[tuple[Source, Record | None]]:
    record = next(records, None)
    for source in sources:
        while record and record.id < source.id:
            record = next(records, None)
        yield source, record if record and record.id == source.id else None
    for _ in records:  # read to the end, so that records of removed recordings are counted too
        pass


def _process(task: tuple[Source, Record | None], checks: Checks) -> tuple[Source, Record, str]:
    source, known = task
    try:
        stat = os.stat(source.path)
        size, mtime_ns = stat.st_size, stat.st_mtime_ns
    except OSError as error:  # a dangling link, or removed since it was listed
        reason = f"{UNREADABLE}: {error.strerror}"
        return source, Record(source.id, source.path, 0, 0, source.path, 0, reason, ""), "examined"
    same = known is not None and known[1:4] == (source.path, size, mtime_ns)
    if known is not None and same and (known.reason or os.path.exists(known.audio)):
        return source, known, "known"
    found = examine(source.path, source.target, checks)
    record = Record(source.id, source.path, size, mtime_ns, found.audio, found.num_samples, found.reason, found.change)
    return source, record, "converted" if found.converted else "examined"


def _refuse_when_broken(summary: Summary) -> None:
    seen, unreadable = summary.work.total(), summary.reasons[UNREADABLE]
    if unreadable > MAX_UNREADABLE * seen:
        path, reason = next(item for item in summary.rejected if item[1].startswith(UNREADABLE))
        raise UserError(
            f"{summary.folder}: {unreadable:,} of {seen:,} recordings cannot be read, more than "
            f"{MAX_UNREADABLE:.0%}; the first is {path} ({reason}); copy or download the corpus again"
        )
    if not summary.utterances:
        why = f": {_counts(summary.reasons)}" if seen else ""
        raise UserError(f"{summary.folder}: none of {seen:,} recordings is usable{why}; give another folder")


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counter.items()))


def _line(record: Record) -> str:
    return json.dumps(record) + "\n"
