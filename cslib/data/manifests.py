"""The lists of a set, data/<set>: lhotse recordings, supervisions and cuts, with the speakers in a file of
their own.

The JSON is lhotse's, written without making lhotse's objects: ten times faster, and nothing to import. A test
holds the two equal. Everything streams, so that a million utterances take no more memory than ten.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from cslib.config import UserError
from cslib.files import writing

SAMPLE_RATE = 16000  # of all audio that is learnt from
MANIFESTS = ("recordings", "supervisions", "cuts")


@dataclass(frozen=True)
class Entry:
    """One utterance: a 16 kHz mono wav or flac file, whole."""

    id: str  # no white space
    path: Path | str
    num_samples: int
    speaker: str | None = None  # goes to speakers.tsv and nowhere else
    sex: str | None = None
    session: str | None = None  # what was recorded together: a video, a visit


def write_set(folder: Path | str, entries: Iterable[Entry], rejected: Iterable[tuple[Path | str, str]] = ()) -> int:
    """Write the manifests, rejected.tsv, and speakers.tsv when there are speakers; the number of entries.

    entries    in strictly rising order of id; the first one says which of the speaker columns there are
               (a later entry without the value gets "-")
    rejected   (path, reason) of what was left out; read after the entries, so that it may grow meanwhile
    Raises UserError for no entry at all, a repeated or unordered id, white space in an id, a missing speaker.
    All files are put in place together, cuts.jsonl.gz last; on an error the old ones stay.
    """
    folder, entries = Path(folder), iter(entries)
    first = next(entries, None)
    if first is None:
        raise UserError(f"{folder}: no usable utterance; nothing was written")
    columns = [name for name in ("speaker", "sex", "session") if getattr(first, name) is not None]
    count = 0
    with ExitStack() as stack:
        # The last one entered is the first one put in place: the cuts, which readers open, come last.
        rejections = _open(stack, folder / "rejected.tsv")
        writers = {name: _open(stack, folder / f"{name}.jsonl.gz") for name in reversed(MANIFESTS)}
        speakers = _open(stack, folder / "speakers.tsv") if columns else None
        if speakers:
            speakers.write("\t".join(["utterance", *columns]) + "\n")
        for entry in _checked(chain([first], entries), folder, columns):
            count += 1
            for name, item in zip(MANIFESTS, as_lhotse(entry), strict=True):
                writers[name].write(json.dumps(item, ensure_ascii=False) + "\n")
            if speakers:
                row = [entry.id, *(getattr(entry, name) or "-" for name in columns)]
                speakers.write("\t".join(row) + "\n")
        rejections.write("path\treason\n")
        rejections.writelines(f"{_printable(path)}\t{_printable(reason)}\n" for path, reason in rejected)
    if not columns:
        (folder / "speakers.tsv").unlink(missing_ok=True)  # of an earlier set that had labels
    return count


def as_lhotse(entry: Entry) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """(recording, supervision, cut) as lhotse 1.33 writes them; none of them has a speaker."""
    duration = entry.num_samples / SAMPLE_RATE
    recording = {
        "id": entry.id,
        "sources": [{"type": "file", "channels": [0], "source": str(entry.path)}],
        "sampling_rate": SAMPLE_RATE,
        "num_samples": entry.num_samples,
        "duration": duration,
        "channel_ids": [0],
    }
    supervision = {"id": entry.id, "recording_id": entry.id, "start": 0.0, "duration": duration, "channel": 0}
    cut = {
        "id": entry.id,
        "start": 0.0,
        "duration": duration,
        "channel": 0,
        "supervisions": [supervision],
        "recording": recording,
        "type": "MonoCut",
    }
    return recording, supervision, cut


def read_manifest(path: Path | str) -> Iterator[dict[str, Any]]:
    """The items of a .jsonl.gz file, one by one. Raises UserError when it is absent or damaged."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; prepare the data first (stage 1)") from None
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: damaged ({error}); prepare the data again (stage 1)") from None


def write_manifest(path: Path | str, items: Iterable[dict[str, Any]]) -> None:
    """Write the items to a .jsonl.gz file; equal items give equal bytes."""
    with ExitStack() as stack:
        file = _open(stack, Path(path))
        file.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


def _open(stack: ExitStack, path: Path) -> io.TextIOBase:
    temporary = stack.enter_context(writing(path))
    raw = stack.enter_context(open(temporary, "wb"))  # noqa: SIM115 (the stack closes it)
    if path.suffix == ".gz":
        # Neither name nor time in the header: the same set is the same bytes, which pack_shards.py relies on.
        raw = stack.enter_context(gzip.GzipFile("", "wb", compresslevel=5, fileobj=raw, mtime=0))
        raw = stack.enter_context(io.BufferedWriter(raw, 1 << 20))
    return stack.enter_context(io.TextIOWrapper(raw, encoding="utf-8", newline="\n"))


def _checked(entries: Iterable[Entry], folder: Path, columns: list[str]) -> Iterator[Entry]:
    previous = ""
    for entry in entries:
        if entry.id.split() != [entry.id]:
            raise UserError(f"{folder}: the utterance id {entry.id!r} is empty or has white space in it")
        if entry.id <= previous:
            raise UserError(f"{folder}: the id {entry.id} comes twice or after {previous}; ids must rise")
        if (entry.speaker is not None) != ("speaker" in columns):
            raise UserError(f"{folder}: {entry.id} is unlike the first: either all have a speaker or none")
        previous = entry.id
        yield entry


def _printable(text: Path | str) -> str:
    """On one line, without tabs, and valid UTF-8 even for a file name that is not."""
    return " ".join(str(text).split()).encode("utf-8", "backslashreplace").decode()


def recordings_of_set(folder: Path) -> dict[str, Path]:
    """The audio files of a set, by id."""
    return {
        item["id"]: folder / item["recording"]["sources"][0]["source"]
        for item in read_manifest(folder / "cuts.jsonl.gz")
    }
