"""Random access to the audio of a set, through a table that is mapped into memory and never loaded.

The manifest of a million utterances takes minutes to parse and gigabytes to hold, in every loader worker again. It is
therefore read once, as a stream, into one flat file of fixed-width rows, whose pages all workers share.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import soundfile

from cslib.config import UserError
from cslib.data.manifests import SAMPLE_RATE, read_manifest
from cslib.files import progress, writing

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

EXCERPTS = 2000  # recordings of a set, at most, that a digest reads something of
EXCERPTED = 200 * SAMPLE_RATE  # samples that it reads of all of them together
GOLDEN = 0.618034  # multiples of it, modulo 1, fill the unit interval evenly


class Row(NamedTuple):
    """One utterance of the table.

    id           of the utterance
    path         audio file, or the tar that holds it, absolute or relative to the set's folder
    offset       first byte of the audio in the file; 0 for a file of its own
    size         bytes of the audio in the file; 0 for a file of its own
    num_samples  of the utterance, at 16 kHz
    start        its first sample in the audio
    """

    id: str
    path: str
    offset: int
    size: int
    num_samples: int
    start: int = 0


class Utterances:
    """The utterances of one set, in the order of the manifest.

    num_samples  int32 [n], memory-mapped: the length of each utterance at 16 kHz
    A pickled instance is the path of its table, so loader workers map the file themselves.
    """

    def __init__(self, table: Path) -> None:
        self._path = table
        self._table = np.load(table, mmap_mode="r")
        if self._table.dtype.names != Row._fields:
            raise ValueError(f"{table}: has other columns; an earlier version wrote it")
        self.num_samples = self._table["num_samples"]

    @classmethod
    def open(cls, folder: Path | str) -> Utterances:
        """Open data/<set>: from shards/ when the set is packed, else from cuts.jsonl.gz.

        The table is written on the first call, and again whenever the manifests have changed or the table is damaged.
        Raises UserError when the folder holds neither, when a manifest or shard is damaged, or when the set is empty.
        """
        folder = Path(folder)
        shards = sorted((folder / "shards").glob("cuts.*.jsonl.gz"))
        sources = shards or [folder / "cuts.jsonl.gz"]
        if not all(source.is_file() for source in sources):
            raise UserError(f"{folder}: there is no cuts.jsonl.gz in it; prepare the data first")
        table = folder / ("table.shards.npy" if shards else "table.npy")
        changed = max(source.stat().st_mtime_ns for source in sources)
        # Equal, not later: a manifest that is put back may be older than the table of the one before.
        if table.exists() and table.stat().st_mtime_ns == changed:
            try:
                return cls(table)
            except (OSError, ValueError, EOFError):  # damaged, or of an earlier version; it is made from the manifests
                pass
        _write_table(table, lambda: _packed_rows(shards) if shards else _rows(sources[0]), changed)
        return cls(table)

    def __len__(self) -> int:
        return len(self._table)

    def __reduce__(self) -> tuple:
        return Utterances, (self._path,)

    def digest(self) -> str:
        """A SHA-256 of the utterances' ids, their lengths and excerpts of their audio, as 64 hexadecimal digits.

        It does not depend on where and how the set is stored: a set that is moved or packed into shards keeps its
        digest. Audio replaced by other audio of the same length changes it: 200 s of the decoded samples are read, in
        equal excerpts from up to 2,000 recordings evenly spread over the set (see `excerpts`). In a larger set, a
        change of 1 % of the recordings is noticed almost certainly; a change of a few may go unnoticed.

        Measured on one core for 1,092,009 utterances in FLAC files: 1.5 s (0.4 s of it for the ids) when the operating
        system has cached the files, 4 s from a local disk.
        Raises UserError as `read` does.
        """
        digest = hashlib.sha256(b"\0".join(self._table["id"].tolist()))
        digest.update(self.num_samples.tobytes())
        for excerpt in excerpts(self.num_samples):
            digest.update(self.read(*excerpt).tobytes())
        return digest.hexdigest()

    def id(self, row: int) -> str:
        """Id of one utterance."""
        return self._table["id"][row].decode()

    def ids(self, rows: Iterable[int] | None = None) -> list[str]:
        """Ids of the utterances `rows`, or of all."""
        chosen = self._table["id"] if rows is None else self._table["id"][np.asarray(rows, np.int64)]
        return [name.decode() for name in chosen]

    def read(self, row: int, start: int = 0, frames: int | None = None) -> np.ndarray:
        """Decode int16 [frames] of one utterance from sample `start` on, or to its end when `frames` is None.

        Raises UserError when the file is missing, damaged, shorter than the manifest says or not 16 kHz mono.
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
                        f"{path}: has {audio.samplerate} Hz and {audio.channels} channels instead of 16000 Hz mono; "
                        "prepare the data again"
                    )
                audio.seek(int(entry["start"]) + start)
                samples = audio.read(wanted, dtype="int16")
        except (OSError, soundfile.LibsndfileError) as error:
            raise UserError(f"{path}: cannot be read ({error}); prepare the data again") from None
        if len(samples) != wanted:
            raise UserError(f"{path}: ends {wanted - len(samples)} samples early; prepare the data again")
        return samples


def excerpts(num_samples: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(row, start, frames) of the audio that stands for a set of recordings of these lengths, int [n].

    Up to `EXCERPTS` rows, evenly spread, have equal shares of `EXCERPTED` samples. Where in its recording an excerpt
    begins differs from row to row, so that a change of all beginnings or of all endings is seen too.
    """
    rows = np.linspace(0, len(num_samples) - 1, min(len(num_samples), EXCERPTS)).round().astype(int)
    for number, row in enumerate(rows.tolist()):
        length = int(num_samples[row])
        frames = min(length, EXCERPTED // len(rows))
        yield row, int((number * GOLDEN) % 1 * (length - frames + 1)), frames


class _Slice(io.RawIOBase):
    """Part of a file as a file of its own, so that a FLAC inside a tar is decoded in place."""

    def __init__(self, file: io.BufferedReader, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._position = file, offset, size, 0

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + position
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        self._file.seek(self._offset + self._position)
        wanted = max(0, min(len(memoryview(buffer)), self._size - self._position))
        count = self._file.readinto(memoryview(buffer)[:wanted])
        self._position += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _audio_file(path: str, offset: int, size: int) -> io.BufferedReader | _Slice:
    file = open(path, "rb")  # noqa: SIM115 (the caller closes it)
    return _Slice(file, offset, size) if size else file


def _rows(cuts: Path) -> Iterator[Row]:
    for cut in read_manifest(cuts):
        try:
            path, start, duration = cut["recording"]["sources"][0]["source"], cut["start"], cut["duration"]
            row = Row(cut["id"], path, 0, 0, round(duration * SAMPLE_RATE), round(start * SAMPLE_RATE))
        except (KeyError, IndexError, TypeError):
            raise UserError(f"{cuts}: damaged, an item is not a cut of one recording; prepare the data again") from None
        yield row


def _packed_rows(shards: list[Path]) -> Iterator[Row]:
    for cuts in shards:
        tar = cuts.with_name(cuts.name.replace("cuts.", "recording.").replace(".jsonl.gz", ".tar"))
        members = _members(tar)
        for cut in read_manifest(cuts):
            if cut["id"] not in members or "duration" not in cut:
                raise UserError(f"{tar}: lacks {cut['id']}; delete {tar.parent} and pack again")
            member = members[cut["id"]]
            yield Row(
                cut["id"],
                f"{tar.parent.name}/{tar.name}",
                member.offset_data,
                member.size,
                round(cut["duration"] * SAMPLE_RATE),
            )


def _members(tar: Path) -> dict[str, tarfile.TarInfo]:
    """The audio files in a tar, by id."""
    try:
        with tarfile.open(tar, "r:") as file:
            return {member.name.rpartition(".")[0]: member for member in file if not member.name.endswith(".json")}
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{tar}: cannot be read ({error}); delete {tar.parent} and pack again") from None


def _write_table(path: Path, rows: Callable[[], Iterator[Row]], changed: int) -> None:
    """Write the rows, which are iterated twice, and give the file the manifests' time of change `changed`, in ns."""
    count = id_width = path_width = 0
    for count, row in enumerate(progress(rows(), "reading the manifest"), start=1):  # noqa: B007
        id_width, path_width = max(id_width, len(row.id.encode())), max(path_width, len(row.path.encode()))
    if not count:
        raise UserError(f"{path.parent}: the set has no utterance; rejected.tsv there lists what was left out")
    columns = [
        ("id", f"S{id_width}"),
        ("path", f"S{path_width}"),
        ("offset", "i8"),
        ("size", "i8"),
        ("num_samples", "i4"),
        ("start", "i8"),
    ]
    with writing(path) as temporary:
        table = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.dtype(columns), shape=(count,))
        for index, row in enumerate(progress(rows(), "indexing the utterances", total=count)):
            table[index] = (row.id.encode(), row.path.encode(), *row[2:])
        table.flush()
        del table
        os.utime(temporary, ns=(changed, changed))
