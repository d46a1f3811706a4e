"""Embeddings on disk: Kaldi ark and scp, float32, and a note of what they were made from."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import kaldiio
import numpy as np
import torch
from torch import Tensor

from cslib.config import Part, UserError
from cslib.files import digest, read_json, write_json, write_lines

# What Kaldi writes before a vector [E] and a matrix [C, E]: binary mark, type (F: float32, D: float64), then each size
# as a 4 and four bytes.
VECTOR = re.compile(rb"\0B([FD])V \x04(.{4})", re.DOTALL)
MATRIX = re.compile(rb"\0B([FD])M \x04(.{4})\x04(.{4})", re.DOTALL)
LONGEST_HEADER = 15  # bytes
MOST_DIGITS = 18  # of an offset; more could overflow an int64


class Origin:
    """What a file is made from. A note of it, in JSON, is kept beside the file, and tells later whether it is current.

    sources     files whose content decides the result, such as the checkpoint and the manifest
    recordings  digest of the recordings, which the manifest lists but does not hold; a note without one fits any
    options   options that decide the result, e.g. {"streams": "all"}; those that change only speed do not belong here
    defaults  the default of each option. Earlier versions of this project wrote no note: a file without one counts as
              made with the defaults, and as current if it is newer than each source
    """

    def __init__(
        self,
        sources: Sequence[Path] = (),
        options: Mapping[str, Any] | None = None,
        defaults: Mapping[str, Any] | None = None,
        recordings: str | None = None,
    ) -> None:
        self.sources, self.options, self.defaults = list(map(Path, sources)), dict(options or {}), dict(defaults or {})
        self.recordings = recordings

    @cached_property
    def digests(self) -> list[str]:
        return [digest(source) if source.exists() else "missing" for source in self.sources]

    def write(self, note: Path) -> None:
        sources = dict(zip(map(str, self.sources), self.digests, strict=True))
        write_json(note, {"options": self.options, "sources": sources, "recordings": self.recordings})

    def objection(self, file: Path, note: Path) -> str | None:
        """Why `file` is not what these sources and options make; None if it is."""
        if not file.exists():
            return "it does not exist"
        if not note.exists():
            return self._objection_by_age(file)
        try:
            noted = read_json(note)
            options, digests = dict(noted["options"]), list(noted["sources"].values())
        except (UserError, KeyError, TypeError, ValueError, AttributeError):
            return f"{note.name} is damaged"
        if options != self.options:
            changed = [name for name in self.options if options.get(name) != self.options[name]] or list(options)
            return f"it was made with other options ({', '.join(changed)})"
        if noted.get("recordings") not in (None, self.recordings):
            return "recordings of the set were replaced"
        if digests != self.digests:
            return "what it was made from has changed"
        return None

    def _objection_by_age(self, file: Path) -> str | None:
        """For a file without a note."""
        made = file.stat().st_mtime_ns
        if any(not source.exists() or source.stat().st_mtime_ns > made for source in self.sources):
            return "it is older than what it is made from"
        if self.options != self.defaults:
            return "an earlier version made it, perhaps with other options"
        return None


class EmbeddingWriter:
    """Write `<out>.ark` and `<out>.scp`, in the order of arrival and of the ids. Used as a context manager.

    Until the block ends without an error everything is in `<out>.unfinished`; a later writer continues from there:
    `done` is the set of ids that are already written.

    origin     what the embeddings are made from; `<out>.json` keeps a note of it. An unfinished file of another origin
               is deleted, so that embeddings of two networks are never mixed
    expected   how many there must be in the end; fewer are a UserError, and the unfinished file stays
    """

    def __init__(self, out: Path, origin: Origin | None = None, expected: int | None = None) -> None:
        self.out, self.origin, self.expected = Path(out), origin, expected
        self.unfinished = _with_suffix(self.out, ".unfinished")
        self._unfinished_note = _with_suffix(self.out, ".unfinished.json")
        if origin and origin.objection(self.unfinished, self._unfinished_note):
            self.unfinished.unlink(missing_ok=True)
        self._ids: list[str] = []
        self._offsets: list[int] = []

    @property
    def done(self) -> set[str]:
        return set(self._ids)

    def __enter__(self) -> EmbeddingWriter:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        if self.origin:
            self.origin.write(self._unfinished_note)
        self._file = open(self.unfinished, "a+b")  # noqa: SIM115 (closed in __exit__)
        self._ids, self._offsets, end = _whole_entries(self._file)
        self._file.truncate(end)
        self._file.seek(end)
        return self

    def add(self, ids: Sequence[str], embeddings: Tensor | np.ndarray) -> None:
        """Append embeddings [n, E], or [n, C, E], under their n ids.

        Raises UserError when a value is not finite.
        """
        embeddings = torch.as_tensor(embeddings).detach().float().cpu().numpy()
        finite = np.isfinite(embeddings).reshape(len(embeddings), -1).all(axis=1)
        if not finite.all():
            raise UserError(
                f"{ids[int(np.argmin(finite))]}: its embedding is not finite, so the training has diverged "
                "(see its log.jsonl); use an earlier checkpoint"
            )
        for name, embedding in zip(ids, embeddings, strict=True):
            self._file.write(name.encode() + b" ")
            self._ids.append(name)
            self._offsets.append(self._file.tell())
            self._file.write(_header(embedding.shape) + embedding.astype("<f4").tobytes())

    def __exit__(self, kind: type | None, *_: object) -> None:
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        if kind is not None:
            return
        if self.expected is not None and len(self._ids) != self.expected:
            raise UserError(
                f"{self.out}: {len(self._ids):,} of {self.expected:,} embeddings were made; run the same command "
                "again to make the others"
            )
        ark, order = _with_suffix(self.out, ".ark"), sorted(range(len(self._ids)), key=self._ids.__getitem__)
        # The scp goes first and comes last: whenever it exists, the ark and the note are those it belongs to.
        _with_suffix(self.out, ".scp").unlink(missing_ok=True)
        self.unfinished.replace(ark)
        if self.origin:
            self._unfinished_note.replace(_note(self.out))
        write_lines(_with_suffix(self.out, ".scp"), (f"{self._ids[i]} {ark}:{self._offsets[i]}" for i in order))


def read_embeddings(scp: Path) -> tuple[list[str], np.ndarray]:
    """Ids of an scp, in its order, and their embeddings, float32 [n, E] (or [n, C, E]).

    Entries written by EmbeddingWriter, or by Kaldi uncompressed, are gathered without a Python loop (a million of 256
    values in seconds); any other format goes through kaldiio. An ark that has moved is looked for beside its scp.
    Raises UserError when a file is missing, empty or damaged, or when the embeddings differ in shape.
    """
    ids, arks, offsets = _read_scp(Path(scp))
    numbers = {ark: number for number, ark in enumerate(dict.fromkeys(arks))}
    which = np.array([numbers[ark] for ark in arks])
    embeddings: np.ndarray | None = None
    for name, index in numbers.items():
        rows = np.flatnonzero(which == index)
        found = _gather(_locate(Path(name), Path(scp)), offsets[rows])
        if embeddings is None:
            embeddings = np.empty((len(ids), *found.shape[1:]), dtype=np.float32)
        if found.shape[1:] != embeddings.shape[1:]:
            raise _differing_shapes(Path(name), found.shape[1:], embeddings.shape[1:])
        embeddings[rows] = found
    assert embeddings is not None  # an empty scp is refused
    return ids, embeddings


def merge_parts(out: Path, count: int, origin: Origin) -> bool:
    """Join `<out>.<i>of<count>.scp` into `<out>.scp` once all parts are complete; the arks stay where they are.

    Whichever part ends last does it, so that no launcher has to. False while a part is missing or of another origin.
    """
    parts = [part_path(out, Part(f"{index}/{count}")) for index in range(1, count + 1)]
    if not all(is_complete(part, origin) for part in parts):
        return False
    lines = [line for part in parts for line in _lines(_with_suffix(part, ".scp"))]
    _with_suffix(out, ".scp").unlink(missing_ok=True)
    origin.write(_note(out))
    write_lines(_with_suffix(out, ".scp"), sorted(lines, key=lambda line: line.split(" ", 1)[0]))
    return True


def part_path(out: Path, part: Part) -> Path:
    """Where a share of the work is written: <out> itself when there is only one."""
    return out if part.count == 1 else _with_suffix(out, f".{part.index}of{part.count}")


def is_complete(out: Path, origin: Origin) -> bool:
    """Whether `<out>.scp` exists and was made from this origin."""
    return objection(out, origin) is None


def objection(out: Path, origin: Origin) -> str | None:
    """Why `<out>.scp` is not what this origin makes; None if it is."""
    return origin.objection(_with_suffix(out, ".scp"), _note(out))


def manifests(folder: Path) -> list[Path]:
    """The files of a data folder whose change makes its embeddings out of date."""
    plain = folder / "cuts.jsonl.gz"
    return [plain] if plain.exists() else sorted(folder.glob("shards/cuts.*.jsonl.gz"))


def _with_suffix(out: Path, suffix: str) -> Path:
    return out.with_name(out.name + suffix)  # not Path.with_suffix: a name may hold dots


def _note(out: Path) -> Path:
    return _with_suffix(out, ".json")


def _damaged(file: Path, what: str) -> UserError:
    return UserError(f"{file}: {what}; extract the embeddings again")


def _differing_shapes(ark: Path, one: tuple[int, ...], other: tuple[int, ...]) -> UserError:
    return _damaged(ark, f"embeddings differ in shape ({list(one)} and {list(other)}): two networks, or a damaged file")


def _header(shape: tuple[int, ...]) -> bytes:
    sizes = b"".join(b"\x04" + int(size).to_bytes(4, "little") for size in shape)
    return b"\0B" + (b"FV " if len(shape) == 1 else b"FM ") + sizes


def _parse_header(data: bytes) -> tuple[int, np.dtype, tuple[int, ...]] | None:
    """(bytes of the header, type of the values, shape) of an uncompressed entry, or None for anything else."""
    match = VECTOR.match(data) or MATRIX.match(data)
    if not match:
        return None
    kind, *sizes = match.groups()
    shape = tuple(int.from_bytes(size, "little") for size in sizes)
    return (match.end(), np.dtype("<f4" if kind == b"F" else "<f8"), shape) if math.prod(shape) else None


def _whole_entries(file: BinaryIO) -> tuple[list[str], list[int], int]:
    """Ids, offsets and the end of the last whole entry of an ark that may break off, or be damaged, anywhere."""
    ids: list[str] = []
    offsets: list[int] = []
    end, size = 0, file.seek(0, 2)
    while end < size:
        file.seek(end)
        name, _, start = file.read(1024).partition(b" ")
        header = _parse_header(start[:LONGEST_HEADER])
        if not name or header is None:
            break
        offset = end + len(name) + 1
        stop = offset + header[0] + header[1].itemsize * math.prod(header[2])
        if stop > size:
            break
        try:
            ids.append(name.decode())
        except UnicodeDecodeError:
            break
        offsets.append(offset)
        end = stop
    return ids, offsets, end


def _lines(scp: Path) -> list[str]:
    try:
        lines = scp.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{scp}: not found; extract the embeddings first") from None
    except OSError as error:
        raise UserError(f"{scp}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise _damaged(scp, "not UTF-8 text") from None
    if not lines:
        raise _damaged(scp, "empty")
    return lines


def _read_scp(scp: Path) -> tuple[list[str], Sequence[str], np.ndarray]:
    lines = _lines(scp)
    ids, places = zip(*(line.split(" ", 1) if " " in line else (line, "") for line in lines), strict=True)
    arks, offsets = zip(*(place.rpartition(":")[::2] for place in places), strict=True)
    digits = "".join(offsets)
    if not (all(ids) and all(arks) and all(offsets) and digits.isascii() and digits.isdigit()):
        raise _bad_line(scp, ids, arks, offsets)
    if max(map(len, offsets)) > MOST_DIGITS:
        raise _bad_line(scp, ids, arks, offsets)
    return list(ids), arks, np.array(offsets, dtype=np.int64)


def _bad_line(scp: Path, ids: Sequence[str], arks: Sequence[str], offsets: Sequence[str]) -> UserError:
    """Names the first line that is not `id file:offset`."""
    number = next(
        number
        for number, (name, ark, offset) in enumerate(zip(ids, arks, offsets, strict=True), start=1)
        if not (name and ark and offset.isascii() and offset.isdigit() and len(offset) <= MOST_DIGITS)
    )
    return _damaged(scp, f"line {number} is not `id file:offset`")


def _locate(ark: Path, scp: Path) -> Path:
    for path in (ark, scp.parent / ark.name):
        if os.path.isfile(path):  # unlike Path.is_file, False for a name that no file system allows
            return path
    raise UserError(f"{scp}: names {ark}, and there is no such file; extract the embeddings again")


def _gather(ark: Path, offsets: np.ndarray, block: int = 65536) -> np.ndarray:
    """float32 [n, ...]: the entries of one ark that begin at `offsets`."""
    try:
        data = np.memmap(ark, dtype=np.uint8, mode="r")
    except OSError as error:
        raise UserError(f"{ark}: cannot be read ({error.strerror}); check its permissions") from None
    except ValueError:  # nothing to map
        raise _damaged(ark, "empty") from None
    first = data[offsets[0] : offsets[0] + LONGEST_HEADER].tobytes()
    parsed = _parse_header(first)
    if parsed is None or parsed[1] != np.float32 or not _all_begin_with(data, offsets, first[: parsed[0]]):
        return _load_each(ark, offsets)
    start, _, shape = parsed
    size = 4 * math.prod(shape)
    if offsets.max() + start + size > len(data):
        raise _damaged(ark, "ends before the last embedding")
    bodies = np.lib.stride_tricks.sliding_window_view(data, size)
    found = np.empty((len(offsets), *shape), dtype=np.float32)
    for begin in range(0, len(offsets), block):
        chosen = bodies[offsets[begin : begin + block] + start]
        found[begin : begin + block] = chosen.view("<f4").reshape(-1, *shape)
    return found


def _all_begin_with(data: np.ndarray, offsets: np.ndarray, header: bytes) -> bool:
    if offsets.max() + len(header) > len(data):
        return False
    starts = np.lib.stride_tricks.sliding_window_view(data, len(header))
    return bool((starts[offsets] == np.frombuffer(header, dtype=np.uint8)).all())


def _load_each(ark: Path, offsets: np.ndarray) -> np.ndarray:
    """The same for entries of any format, one by one."""
    with open(ark, "rb") as file:
        entries = [_load(file, ark, offset) for offset in offsets.tolist()]
    for entry in entries:
        if entry.shape != entries[0].shape:
            raise _differing_shapes(ark, entry.shape, entries[0].shape)
    return np.stack(entries)


def _load(file: BinaryIO, ark: Path, offset: int) -> np.ndarray:
    """float32 [E] or [C, E]: the entry that begins at `offset`."""
    file.seek(offset)
    start = file.read(LONGEST_HEADER)
    parsed = _parse_header(start)
    if parsed:
        size, kind, shape = parsed
        file.seek(offset + size)
        body = file.read(min(kind.itemsize * math.prod(shape), os.fstat(file.fileno()).st_size))
        if len(body) < kind.itemsize * math.prod(shape):
            raise _damaged(ark, f"ends before the embedding at byte {offset:,} does")
        with np.errstate(over="ignore"):
            return np.frombuffer(body, kind).reshape(shape).astype(np.float32)
    # Kaldi's compressed formats and text. What kaldiio would unpickle, which could run code, is refused.
    if not (start.startswith(b"\0B") or start.lstrip().startswith(b"[")):
        raise _damaged(ark, f"no embedding begins at byte {offset:,}")
    file.seek(offset)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            entry = np.asarray(kaldiio.matio.read_kaldi(file), dtype=np.float32)
    except Exception as error:  # kaldiio raises whatever its parsing runs into
        raise _damaged(ark, f"the embedding at byte {offset:,} cannot be read ({type(error).__name__})") from None
    if entry.ndim not in (1, 2) or not entry.size:
        raise _damaged(ark, f"the entry at byte {offset:,} is not a vector or a matrix")
    return entry
