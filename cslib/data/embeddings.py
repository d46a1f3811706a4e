"""Embeddings on disk: Kaldi ark and scp, float32."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import kaldiio
import numpy as np
import torch
from torch import Tensor

from cslib.config import Part, UserError
from cslib.files import write_lines

# What Kaldi writes before a float32 vector [E] and a matrix [C, E]: binary mark, type, sizes in 4 bytes each.
VECTOR = re.compile(rb"\0BFV \x04(.{4})", re.DOTALL)
MATRIX = re.compile(rb"\0BFM \x04(.{4})\x04(.{4})", re.DOTALL)
LONGEST_HEADER = 15  # bytes


class EmbeddingWriter:
    """Write `<out>.ark` and `<out>.scp`, in the order of arrival and of the ids. Used as a context manager.

    Until the block ends without an error all is in `<out>.unfinished`; a later writer goes on from there:
    `done` is the set of ids that are already written.

    sources    the files that the embeddings come from (checkpoint, manifest): what was written before one of
               them last changed is thrown away, so that two networks are never mixed
    expected   how many there must be in the end; fewer are a UserError, and the unfinished file stays
    """

    def __init__(self, out: Path, sources: Sequence[Path] = (), expected: int | None = None) -> None:
        self.out, self.expected = Path(out), expected
        self.unfinished = _with_suffix(self.out, ".unfinished")
        if not is_current(self.unfinished, sources):
            self.unfinished.unlink(missing_ok=True)
        self._ids, self._offsets = [], []

    @property
    def done(self) -> set[str]:
        return set(self._ids)

    def __enter__(self) -> EmbeddingWriter:
        self.out.parent.mkdir(parents=True, exist_ok=True)
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
                f"{ids[int(np.argmin(finite))]}: its embedding is not finite; the training has diverged "
                "(see log.jsonl), take an earlier checkpoint"
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
                f"{self.out}: {len(self._ids):,} embeddings of {self.expected:,}; run the same command "
                "again to make the rest"
            )
        ark, order = _with_suffix(self.out, ".ark"), sorted(range(len(self._ids)), key=self._ids.__getitem__)
        _with_suffix(self.out, ".scp").unlink(missing_ok=True)  # so that a crash leaves no old scp, new ark
        self.unfinished.replace(ark)
        write_lines(_with_suffix(self.out, ".scp"), (f"{self._ids[i]} {ark}:{self._offsets[i]}" for i in order))


def read_embeddings(scp: Path) -> tuple[list[str], np.ndarray]:
    """The ids of an scp, in its order, and their embeddings, float32 [n, E] (or [n, C, E]).

    Entries written by EmbeddingWriter, or by Kaldi uncompressed, are gathered without a Python loop (a
    million of 256 values in seconds); any other format goes through kaldiio. An ark that has moved is looked
    for beside its scp.
    Raises UserError when a file is missing, is empty, or the embeddings differ in shape.
    """
    ids, arks, offsets = _read_scp(Path(scp))
    numbers = {ark: number for number, ark in enumerate(dict.fromkeys(arks))}
    which = np.array([numbers[ark] for ark in arks])
    embeddings = None
    for name, index in numbers.items():
        rows = np.flatnonzero(which == index)
        found = _gather(_locate(Path(name), Path(scp)), offsets[rows])
        if embeddings is None:
            embeddings = np.empty((len(ids), *found.shape[1:]), dtype=np.float32)
        if found.shape[1:] != embeddings.shape[1:]:
            raise UserError(
                f"{name}: embeddings of shape {found.shape[1:]} beside {embeddings.shape[1:]} in the same "
                "list; extract all of them with one network"
            )
        embeddings[rows] = found
    return ids, embeddings


def merge_parts(out: Path, count: int, sources: Sequence[Path] = ()) -> bool:
    """Join `<out>.<i>of<count>.scp` into `<out>.scp` once all are there; the arks stay where they are.

    Whichever part ends last does it, so that no launcher has to. False while a part is missing or is older
    than one of `sources`.
    """
    parts = [part_path(out, Part(f"{index}/{count}")) for index in range(1, count + 1)]
    if not all(is_complete(part, sources) for part in parts):
        return False
    lines = [line for part in parts for line in _with_suffix(part, ".scp").read_text(encoding="utf-8").splitlines()]
    write_lines(_with_suffix(out, ".scp"), sorted(lines, key=lambda line: line.split(" ", 1)[0]))
    return True


def part_path(out: Path, part: Part) -> Path:
    """Where a share of the work is written: <out> itself when there is only one."""
    return out if part.count == 1 else _with_suffix(out, f".{part.index}of{part.count}")


def is_complete(out: Path, sources: Sequence[Path] = ()) -> bool:
    """Whether `<out>.scp` is there and was written after each of `sources` last changed."""
    return is_current(_with_suffix(out, ".scp"), sources)


def is_current(path: Path, sources: Sequence[Path] = ()) -> bool:
    """Whether a file is there and was written after each of `sources` last changed."""
    return path.exists() and all(path.stat().st_mtime_ns >= Path(source).stat().st_mtime_ns for source in sources)


def manifests(folder: Path) -> list[Path]:
    """The files of a data folder whose change makes its embeddings out of date."""
    plain = folder / "cuts.jsonl.gz"
    return [plain] if plain.exists() else sorted(folder.glob("shards/cuts.*.jsonl.gz"))


def _with_suffix(out: Path, suffix: str) -> Path:
    return out.with_name(out.name + suffix)  # not Path.with_suffix: a name may hold dots


def _header(shape: tuple[int, ...]) -> bytes:
    sizes = b"".join(b"\x04" + int(size).to_bytes(4, "little") for size in shape)
    return b"\0B" + (b"FV " if len(shape) == 1 else b"FM ") + sizes


def _parse_header(data: bytes) -> tuple[int, tuple[int, ...]] | None:
    """(bytes of the header, shape) of an uncompressed float32 entry, or None for anything else."""
    match = VECTOR.match(data) or MATRIX.match(data)
    return match and (match.end(), tuple(int.from_bytes(size, "little") for size in match.groups()))


def _whole_entries(file: BinaryIO) -> tuple[list[str], list[int], int]:
    """Ids, offsets and the end of the last whole entry of an ark that may break off anywhere."""
    ids, offsets, end = [], [], 0
    size = file.seek(0, 2)
    while end < size:
        file.seek(end)
        name, space, start = file.read(1024).partition(b" ")
        header = _parse_header(start[:LONGEST_HEADER]) if space else None
        if header is None:
            break
        offset = end + len(name) + 1
        stop = offset + header[0] + 4 * int(np.prod(header[1]))
        if stop > size:
            break
        ids.append(name.decode())
        offsets.append(offset)
        end = stop
    return ids, offsets, end


def _read_scp(scp: Path) -> tuple[list[str], Sequence[str], np.ndarray]:
    try:
        lines = scp.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{scp}: there is no such file; extract the embeddings first") from None
    if not lines:
        raise UserError(f"{scp}: it is empty; extract the embeddings again")
    ids, places = zip(*(line.split(" ", 1) if " " in line else (line, "") for line in lines), strict=True)
    arks, offsets = zip(*(place.rpartition(":")[::2] for place in places), strict=True)
    bad = next((i for i, offset in enumerate(offsets) if not offset.isdigit()), None)
    if bad is not None:
        raise UserError(f"{scp}: line {bad + 1} is not `id file:offset`; extract the embeddings again")
    return list(ids), arks, np.array(offsets, dtype=np.int64)


def _locate(ark: Path, scp: Path) -> Path:
    beside = scp.parent / ark.name
    if not ark.is_file() and not beside.is_file():
        raise UserError(f"{ark}: there is no such file, though {scp} names it; extract the embeddings again")
    return ark if ark.is_file() else beside


def _gather(ark: Path, offsets: np.ndarray, block: int = 65536) -> np.ndarray:
    """float32 [n, ...]: the entries of one ark that begin at `offsets`."""
    data = np.memmap(ark, dtype=np.uint8, mode="r")
    first = data[offsets[0] : offsets[0] + LONGEST_HEADER].tobytes()
    parsed = _parse_header(first)
    if parsed is None or not _all_begin_with(data, offsets, first[: parsed[0]]):
        return _load_each(ark, offsets)
    start, shape = parsed
    size = 4 * int(np.prod(shape))
    if offsets.max() + start + size > len(data):
        raise UserError(f"{ark}: it breaks off before the last embedding; extract the embeddings again")
    bodies = np.lib.stride_tricks.sliding_window_view(data, size)
    found = np.empty((len(offsets), *shape), dtype=np.float32)
    for begin in range(0, len(offsets), block):
        chosen = bodies[offsets[begin : begin + block] + start]
        found[begin : begin + block] = chosen.view("<f4").reshape(-1, *shape)
    return found


def _all_begin_with(data: np.ndarray, offsets: np.ndarray, header: bytes) -> bool:
    starts = np.lib.stride_tricks.sliding_window_view(data, len(header))
    return bool((starts[offsets] == np.frombuffer(header, dtype=np.uint8)).all())


def _load_each(ark: Path, offsets: Iterable[int]) -> np.ndarray:
    entries = [np.asarray(kaldiio.load_mat(f"{ark}:{offset}"), dtype=np.float32) for offset in offsets]
    if len({entry.shape for entry in entries}) != 1:
        raise UserError(f"{ark}: its embeddings differ in shape; extract all of them with one network")
    return np.stack(entries)
