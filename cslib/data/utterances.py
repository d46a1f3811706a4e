"""Random access to the audio of a set, from a table that is mapped into memory, never loaded.

A manifest of a million utterances takes minutes to parse and gigabytes to hold, in every loader worker again.
It is therefore read once, as a stream, into one flat file of fixed-width rows; workers share its pages.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile

from cslib.config import UserError
from cslib.data.manifests import SAMPLE_RATE, read_manifest
from cslib.files import progress, writing


class Row(NamedTuple):
    id: str
    path: str  # an audio file, or the tar that holds it, relative to the set's folder
    offset: int  # where the audio begins in the file, in bytes; 0 for a file of its own
    size: int  # its length in bytes; 0 for a file of its own
    num_samples: int


class Utterances:
    """The utterances of one set, in manifest order.

    ids          str, by `id(row)` or `ids(rows)`
    num_samples  int32 [n], mapped
    """

    def __init__(self, table: Path) -> None:
        self._path = table
        self._table = np.load(table, mmap_mode="r")
        self.num_samples = self._table["num_samples"]

    @classmethod
    def open(cls, folder: Path | str) -> Utterances:
        """data/<set>, from shards/ when it is packed, else from cuts.jsonl.gz.

        Raises UserError when the folder holds neither, or no utterance.
        """
        folder = Path(folder)
        shards = sorted((folder / "shards").glob("cuts.*.jsonl.gz"))
        sources = shards or [folder / "cuts.jsonl.gz"]
        if not all(source.is_file() for source in sources):
            raise UserError(f"{folder}: there is no cuts.jsonl.gz in it; prepare the data first (stage 1)")
        table = folder / ("table.shards.npy" if shards else "table.npy")
        changed = max(source.stat().st_mtime_ns for source in sources)
        # Equal, not later: a manifest that is put back may be older than the table of the one before.
        if not table.exists() or table.stat().st_mtime_ns != changed:
            _write_table(table, lambda: _packed_rows(shards) if shards else _rows(sources[0]), changed)
        return cls(table)

    def __len__(self) -> int:
        return len(self._table)

    # Loader workers that are spawned, not forked, map the file anew: the path travels, not the table.
    def __reduce__(self) -> tuple:
        return Utterances, (self._path,)

    def digest(self) -> str:
        """A hash of the utterances' ids and lengths: the same when they are moved or packed."""
        names = hashlib.sha256(b"\0".join(self._table["id"].tolist()))
        names.update(self.num_samples.tobytes())
        return names.hexdigest()

    def id(self, row: int) -> str:
        return self._table["id"][row].decode()

    def ids(self, rows: Iterable[int] | None = None) -> list[str]:
        chosen = self._table["id"] if rows is None else self._table["id"][np.asarray(rows, np.int64)]
        return [name.decode() for name in chosen]

    def read(self, row: int, start: int = 0, frames: int | None = None) -> np.ndarray:
        """int16 [frames] from sample `start` on (to the end when `frames` is None), decoding only that part.

        Raises UserError when the file is gone, damaged, shorter than the manifest says or not 16 kHz mono.
        """
        entry = self._table[row]
        path = str(self._path.parent / entry["path"].decode())
        wanted = int(entry["num_samples"]) - start if frames is None else frames
        try:
            with (
                _audio_file(path, int(entry["offset"]), int(entry["size"])) as source,
                soundfile.SoundFile(source) as audio,
            ):
                if (audio.samplerate, audio.channels) != (SAMPLE_RATE, 1):
                    raise UserError(
                        f"{path}: {audio.samplerate} Hz with {audio.channels} channels, expected "
                        "16000 Hz mono; prepare the data again (stage 1)"
                    )
                audio.seek(start)
                samples = audio.read(wanted, dtype="int16")
        except (OSError, soundfile.LibsndfileError) as error:
            raise UserError(f"{path}: cannot be read ({error}); prepare the data again (stage 1)") from None
        if len(samples) != wanted:
            raise UserError(f"{path}: ends {wanted - len(samples)} samples early; prepare the data again (stage 1)")
        return samples


class _Slice(io.RawIOBase):
    """A stretch of a file as a file of its own, so that a FLAC inside a tar is decoded in place."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._position = file, offset, size, 0

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + position
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        self._file.seek(self._offset + self._position)
        wanted = max(0, min(len(buffer), self._size - self._position))
        count = self._file.readinto(memoryview(buffer)[:wanted])
        self._position += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _audio_file(path: str, offset: int, size: int) -> BinaryIO:
    file = open(path, "rb")  # noqa: SIM115 (the caller closes it)
    return _Slice(file, offset, size) if size else file


def _rows(cuts: Path) -> Iterator[Row]:
    for cut in read_manifest(cuts):
        recording = cut["recording"]
        yield Row(cut["id"], recording["sources"][0]["source"], 0, 0, recording["num_samples"])


def _packed_rows(shards: list[Path]) -> Iterator[Row]:
    for cuts in shards:
        tar = cuts.with_name(cuts.name.replace("cuts.", "recording.").replace(".jsonl.gz", ".tar"))
        members = _members(tar)
        for cut in read_manifest(cuts):
            if cut["id"] not in members:
                raise UserError(f"{tar}: {cut['id']} is not in it; delete {tar.parent} and pack again")
            member = members[cut["id"]]
            yield Row(
                cut["id"],
                f"{tar.parent.name}/{tar.name}",
                member.offset_data,
                member.size,
                round(cut["duration"] * SAMPLE_RATE),
            )


def _members(tar: Path) -> dict[str, tarfile.TarInfo]:
    """The audio files in it, by id."""
    try:
        with tarfile.open(tar, "r:") as file:
            return {member.name.rpartition(".")[0]: member for member in file if not member.name.endswith(".json")}
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{tar}: cannot be read ({error}); delete {tar.parent} and pack again") from None


def _write_table(path: Path, rows: Callable[[], Iterator[Row]], changed: int) -> None:
    """changed  when the manifest was, in ns; the table gets the same time"""
    count = id_width = path_width = 0
    for count, row in enumerate(progress(rows(), "reading the manifest"), start=1):  # noqa: B007
        id_width, path_width = max(id_width, len(row.id.encode())), max(path_width, len(row.path.encode()))
    if not count:
        raise UserError(f"{path.parent}: the set has no utterance; see rejected.tsv there for what was left out")
    columns = [
        ("id", f"S{id_width}"),
        ("path", f"S{path_width}"),
        ("offset", "i8"),
        ("size", "i8"),
        ("num_samples", "i4"),
    ]
    with writing(path) as temporary:
        table = np.lib.format.open_memmap(temporary, mode="w+", dtype=columns, shape=(count,))
        for index, row in enumerate(progress(rows(), "indexing the utterances", total=count)):
            table[index] = (row.id.encode(), row.path.encode(), *row[2:])
        table.flush()
        del table
        os.utime(temporary, ns=(changed, changed))
