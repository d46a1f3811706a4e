"""The manifests of a set, data/<set>: recordings, supervisions and cuts of lhotse, with the speakers in their own file.

The JSON is lhotse's, but is written without lhotse's objects, which is ten times faster; a test compares the two.
Everything streams, so a million utterances take no more memory than ten.
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

SAMPLE_RATE = 16000  # Hz, of all audio
MANIFESTS = ("recordings", "supervisions", "cuts")


@dataclass(frozen=True)
class Entry:
    """One utterance: a wav or flac file, 16 kHz mono, or a part of one.

    id           without white space
    path         of the audio file
    num_samples  length of the utterance
    speaker      goes to speakers.tsv and nowhere else
    sex          likewise
    session      likewise; what was recorded together, such as a video or a visit
    start        first sample of the utterance in the file
    of_samples   length of the file when the utterance is a part of it; None: the utterance is the whole file
    """

    id: str
    path: Path | str
    num_samples: int
    speaker: str | None = None
    sex: str | None = None
    session: str | None = None
    start: int = 0
    of_samples: int | None = None


def write_set(folder: Path | str, entries: Iterable[Entry], rejected: Iterable[tuple[Path | str, str]] = ()) -> int:
    """Write the manifests, rejected.tsv and, when there are speakers, speakers.tsv; return the number of entries.

    entries    in strictly ascending order of id; the first one decides which speaker columns there are (a later entry
               without a value gets "-")
    rejected   (path, reason) of what was left out; read after the entries, so it may grow meanwhile
    All files are put in place together, cuts.jsonl.gz last; after an error the old ones are unchanged.
    Raises UserError when there is no entry, when ids repeat, do not ascend or have white space in them, and when only
    some entries have a speaker.
    """
    folder, entries = Path(folder), iter(entries)
    first = next(entries, None)
    if first is None:
        raise UserError(f"{folder}: no usable utterance; nothing was written")
    columns = [name for name in ("speaker", "sex", "session") if getattr(first, name) is not None]
    count = 0
    with ExitStack() as stack:
        # The last file entered is the first one put in place. The cuts, which readers open, come last.
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
    """(recording, supervision, cut) as lhotse 1.33 writes them, without the speaker.

    A part of a file has a recording item of its own, which describes the whole file.
    """
    of_samples = entry.of_samples or entry.num_samples
    start, duration = entry.start / SAMPLE_RATE, entry.num_samples / SAMPLE_RATE
    recording = {
        "id": entry.id,
        "sources": [{"type": "file", "channels": [0], "source": str(entry.path)}],
        "sampling_rate": SAMPLE_RATE,
        "num_samples": of_samples,
        "duration": of_samples / SAMPLE_RATE,
        "channel_ids": [0],
    }
    supervision = {"id": entry.id, "recording_id": entry.id, "start": start, "duration": duration, "channel": 0}
    cut = {
        "id": entry.id,
        "start": start,
        "duration": duration,
        "channel": 0,
        "supervisions": [{**supervision, "start": 0.0}],  # relative to the cut
        "recording": recording,
        "type": "MonoCut",
    }
    return recording, supervision, cut


def read_manifest(path: Path | str) -> Iterator[dict[str, Any]]:
    """Yield the items of a .jsonl.gz file. Raises UserError when the file is absent or damaged."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                item = json.loads(line)
                if not isinstance(item, dict) or "id" not in item:
                    raise UserError(f"{path}: damaged, an item has no id; prepare the data again")
                yield item
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; prepare the data first") from None
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: damaged ({error}); prepare the data again") from None


def write_manifest(path: Path | str, items: Iterable[dict[str, Any]]) -> None:
    """Write the items to a .jsonl.gz file; equal items give equal bytes. Raises UserError when it cannot be written."""
    with ExitStack() as stack:
        file = _open(stack, Path(path))
        file.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


def _open(stack: ExitStack, path: Path) -> io.TextIOWrapper:
    temporary = stack.enter_context(writing(path))
    file = stack.enter_context(open(temporary, "wb"))  # noqa: SIM115 (the stack closes it)
    if path.suffix == ".gz":
        # Neither name nor time in the header: packing compares the bytes of equal sets.
        packed = stack.enter_context(gzip.GzipFile("", "wb", compresslevel=5, fileobj=file, mtime=0))
        file = stack.enter_context(io.BufferedWriter(packed, 1 << 20))
    return stack.enter_context(io.TextIOWrapper(file, encoding="utf-8", newline="\n"))


def _checked(entries: Iterable[Entry], folder: Path, columns: list[str]) -> Iterator[Entry]:
    previous = ""
    for entry in entries:
        if entry.id.split() != [entry.id]:
            raise UserError(f"{folder}: the utterance id {entry.id!r} is empty or contains white space")
        if entry.id <= previous:
            raise UserError(f"{folder}: the id {entry.id} comes twice, or after {previous}; ids must ascend")
        if (entry.speaker is not None) != ("speaker" in columns):
            raise UserError(f"{folder}: {entry.id} differs from the first utterance; all must have a speaker, or none")
        previous = entry.id
        yield entry


def _printable(text: Path | str) -> str:
    """The text on one line, without tabs, as valid UTF-8 even for a file name that is not."""
    return " ".join(str(text).split()).encode("utf-8", "backslashreplace").decode()


def recordings_of_set(folder: Path) -> dict[str, Path]:
    """The audio files of data/<set> by id, as cuts.jsonl.gz lists them.

    Raises UserError as `read_manifest` does, and when an utterance is only a part of its file.
    """
    found = {}
    for item in read_manifest(folder / "cuts.jsonl.gz"):
        if item["duration"] != item["recording"]["duration"]:
            raise UserError(f"{folder}: {item['id']} is a part of a recording; give a set of whole recordings")
        found[item["id"]] = folder / item["recording"]["sources"][0]["source"]
    return found
