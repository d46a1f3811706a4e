"""Files that are complete or absent; progress bars and tables that are readable on a terminal and in a log."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from cslib.config import UserError

Item = TypeVar("Item")


@contextmanager
def writing(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path`, which becomes `path` if the block ends without an error.

    Raises UserError when the disk is full or the folder is not writable; a previous file then stays as it was.
    """
    path = Path(path)
    temporary = path.with_name(_temporary_name(path.name))
    mine = {str(file) for file in (temporary, path, *path.parents)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is not None and str(error.filename) not in mine:
            raise  # about another file, one that the block reads
        raise UserError(
            f"{path}: could not be written ({error.strerror or error}), and a previous file is unchanged; "
            "make room or choose another folder"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _temporary_name(name: str) -> str:
    """A name that no other process has, on no machine that shares the disk.

    The end of the name stays, because libraries choose a format or a compression by it.
    """
    host = re.sub(r"\W", "", socket.gethostname().partition(".")[0])[:16]
    return f".writing-{host}-{os.getpid()}-{secrets.token_hex(4)}-{name[-40:]}"


def refuse_unwritable(path: Path) -> None:
    """Raise UserError when `path` could not be written, before a long computation finds out. Creates nothing."""
    above = next(folder for folder in path.absolute().parents if os.path.exists(folder))
    if os.path.isdir(path):
        raise UserError(f"{path}: is a folder; give the name of a file")
    if not os.path.isdir(above) or not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"{path}: could not be written: {above} is not a folder you may write to; choose another")


def printable(path: str) -> str:
    """The path itself. Raises UserError when it is not valid UTF-8, because it could not be printed or listed."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UserError(f"{path!r}: the file name is not valid UTF-8; rename it") from None
    return path


def write_lines(path: Path | str, lines: Iterable[str]) -> int:
    """Write lines, given without line ends, and return their number. Raises UserError as `writing` does."""
    count = 0
    with writing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(line + "\n")
            count += 1
    return count


def write_json(path: Path | str, values: Any) -> None:
    write_lines(path, [json.dumps(values, indent=2, ensure_ascii=False)])


def read_json(path: Path | str) -> Any:
    """Raises UserError when the file is missing or is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # neither UTF-8 nor JSON
        raise UserError(f"{path}: not valid JSON ({error})") from None


def claim(folder: Path, settings: dict[str, str]) -> None:
    """Record in <folder>/made_from.json the settings with which its files are about to be made.

    settings  {name: value}; messages show the names
    Raises UserError when the folder was made with other settings: its files would be taken for finished new ones.
    """
    marker = folder / "made_from.json"
    if not marker.exists():
        write_json(marker, settings)
        return
    known = read_json(marker)
    if not isinstance(known, dict):
        raise UserError(f"{marker}: damaged; remove {folder}, or choose another folder")
    differing = [name for name, value in settings.items() if known.get(name) != value]
    if differing:
        name = differing[0]
        raise UserError(
            f"{folder}: was made with another {name.replace('_', '-')} ({known.get(name)}, now {settings[name]}); "
            "remove it or choose another folder"
        )


def digest(path: Path | str) -> str:
    """The first twelve hexadecimal digits of the SHA-256 of a file's content."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()[:12]


def progress(items: Iterable[Item], what: str, total: int | None = None) -> tqdm[Item]:
    """A progress bar over `items`; if standard error is not a terminal, a line every 30 seconds instead."""
    if sys.stderr.isatty():
        return tqdm(items, desc=what, total=total, mininterval=0.5, dynamic_ncols=True)
    return tqdm(items, desc=what, total=total, mininterval=30.0, delay=30.0, ascii=True, ncols=100, file=_Lines())


def warn(sentence: str) -> None:
    """Print a warning to standard error."""
    print(f"warning: {sentence}", file=sys.stderr)


def aligned(cells: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table as text, given as rows of cells: the first `left` columns left-aligned, the others right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    )


class _Lines:
    """Standard error, for a progress bar that prints each of its states on a line of its own."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stderr.write(text.strip() + "\n")

    def flush(self) -> None:
        sys.stderr.flush()
