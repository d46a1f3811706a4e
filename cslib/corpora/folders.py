"""Folders of recordings: find the audio files in them, give them ids, and clean up after a failed preparation."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from cslib.config import UserError
from cslib.corpora.audio_files import AUDIO_SUFFIXES
from cslib.data.manifests import MANIFESTS
from cslib.files import printable


def relative_audio_paths(corpus: Path) -> Iterator[str]:
    """Paths of all audio files below `corpus`, relative to it, with "/", in no particular order.

    Links are followed; hidden files and folders are skipped. Raises UserError for a file name that is not UTF-8.
    """
    folders, seen = [""], set()
    while folders:
        folder = folders.pop()
        stat = os.stat(corpus / folder)
        if (stat.st_dev, stat.st_ino) in seen:  # a link that leads back
            continue
        seen.add((stat.st_dev, stat.st_ino))
        with os.scandir(corpus / folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(f"{folder}{entry.name}/")
                elif os.path.splitext(entry.name)[1].lower() in AUDIO_SUFFIXES:
                    yield printable(folder + entry.name)


def unique_ids(paths: Iterable[str]) -> list[str]:
    """An id for each relative path: the path without its suffix, with "-" for "/" and "_" for white space.

    Where two would be equal, the later ones end in "-2", "-3", ...
    """
    ids: dict[str, None] = {}
    for path in paths:
        name = re.sub(r"\s+", "_", os.path.splitext(path)[0].replace("/", "-"))
        unique, number = name, 1
        while unique in ids:
            number += 1
            unique = f"{name}-{number}"
        ids[unique] = None
    return list(ids)


def refuse_overlap(folder: Path, corpus: Path) -> None:
    """Raise UserError when the set `folder` lies in `corpus` or holds it. Both paths are resolved ones."""
    if folder == corpus or folder in corpus.parents or corpus in folder.parents:
        raise UserError(f"{folder}: lies in the corpus {corpus}, or contains it; choose another --data")


def remove_set(folder: Path) -> None:
    """Remove what a failed first preparation of a set has written, and nothing else."""
    for name in ("audio", "trials"):
        shutil.rmtree(folder / name, ignore_errors=True)
    made = ["journal.jsonl", "journal.partial.jsonl", "speakers.tsv", "rejected.tsv"]
    for name in [*made, *(f"{name}.jsonl.gz" for name in MANIFESTS)]:
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
