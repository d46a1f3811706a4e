"""Make data/folder_emotion/all from your own labelled recordings: a folder for each class, or a table.

    python local/prepare_emotion_folder.py --class-dir recordings --data data/folder_emotion
    python local/prepare_emotion_folder.py --table recordings.tsv --data data/folder_emotion

Folders are <class-dir>/<class>/<speaker>/... or, when speakers are unknown, <class-dir>/<class>/recording.wav. A table
has the tab-separated columns path, label and speaker, named in its first line; paths are relative to its folder.
Formats and sampling rates are those of prepare_folder.py.

Speakers are divided into folds, each speaker in one. When speakers are unknown, every recording counts as a speaker: a
voice may then be in training and test, which makes results too good.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cslib.config import UserError, run
from cslib.corpora.audio_files import AUDIO_SUFFIXES, Checks
from cslib.corpora.class_preparation import TABLE, Recording, prepare_classes
from cslib.corpora.folders import refuse_overlap, relative_audio_paths, remove_set, unique_ids
from cslib.data.classes import assign_folds
from cslib.files import warn

COLUMNS = ("path", "label", "speaker")


@dataclass
class Options:
    class_dir: Path | None = None  # one folder for each class, with or without a folder for each speaker in it
    table: Path | None = None  # table with the columns path, label and speaker
    data: Path = Path("data/folder_emotion")  # makes all/ in it
    folds: int = 5  # number of folds; fewer when there are fewer speakers
    nj: int = os.cpu_count() or 1  # number of processes
    min_seconds: float = 0.3  # shorter recordings are left out, in seconds


class Found(NamedTuple):
    """A recording: its path relative to `folder`, which its id is made from, its class and its speaker."""

    path: str
    folder: Path
    label: str
    speaker: str | None


def main(options: Options) -> None:
    folder = options.data / "all"
    if options.class_dir and not options.table:
        found = from_folders(options.class_dir, folder)
    elif options.table and not options.class_dir:
        found = from_table(options.table, folder)
    else:
        raise UserError("give either --class-dir (one folder for each class) or --table (path, label, speaker)")
    recordings = with_folds(found, options.folds)
    new = not (folder / "cuts.jsonl.gz").exists()
    try:
        prepare_classes(folder, recordings, options.nj, Checks(min_seconds=options.min_seconds))
    except UserError:
        if new:
            (folder / TABLE).unlink(missing_ok=True)
            remove_set(folder)
        raise


def from_folders(corpus: Path, folder: Path) -> list[Found]:
    """The recordings in the folders of the classes, sorted.

    Raises UserError when there is none, when only some have a speaker, and when `folder` overlaps with the corpus.
    """
    if not corpus.is_dir():
        raise UserError(f"{corpus}: there is no such folder")
    refuse_overlap(folder.resolve(), corpus.resolve())
    everything = sorted(relative_audio_paths(corpus))
    paths = [path for path in everything if "/" in path]
    if not paths:
        raise UserError(
            f"{corpus}: there is no recording ({', '.join(sorted(AUDIO_SUFFIXES))}) in folders named after classes"
        )
    loose = [path for path in everything if "/" not in path]
    if loose:
        warn(
            f"{len(loose):,} recordings of {corpus} are in no folder named after a class and are left out; the first "
            f"is {loose[0]}"
        )
    known = [path.count("/") > 1 for path in paths]
    if any(known) and not all(known):
        raise UserError(
            f"{corpus / paths[known.index(False)]}: is in no speaker's folder, but others are; put "
            "all recordings into such folders, or none"
        )
    return [
        Found(path, corpus.absolute(), path.split("/")[0], path.split("/")[1] if all(known) else None) for path in paths
    ]


def from_table(table: Path, folder: Path) -> list[Found]:
    """The recordings of the table, sorted.

    Raises UserError when it is malformed, or names a file that does not exist or lies in `folder`, the new set.
    """
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            if not set(COLUMNS) <= set(lines.fieldnames or []):
                raise UserError(
                    f"{table}: its first line must name the columns path, label and speaker, separated by tabs"
                )
            rows = {}
            for line in lines:
                cells = [(line[name] or "").strip() for name in COLUMNS]
                path = os.path.normpath(table.absolute().parent / cells[0])
                if not all(cells):
                    raise UserError(f"{table}: line {lines.line_num} lacks its path, its label or its speaker")
                if path in rows or not os.path.isfile(path):
                    what = "comes twice" if path in rows else "is not there"
                    raise UserError(f"{table}: line {lines.line_num} names {cells[0]}, which {what}")
                if folder.resolve() in Path(path).resolve().parents:
                    raise UserError(
                        f"{table}: line {lines.line_num} names {cells[0]}, which lies in {folder}, where "
                        "the set is made; move it, or choose another --data"
                    )
                rows[path] = cells[1:]
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{table}: could not be read; give a text file in UTF-8") from None
    if not rows:
        raise UserError(f"{table}: lists no recording")
    above = Path(os.path.commonpath([os.path.dirname(path) for path in rows]))
    return [Found(os.path.relpath(path, above), above, *rows[path]) for path in sorted(rows)]


def with_folds(found: list[Found], folds: int) -> list[Recording]:
    """The recordings with ids, speakers and folds; fewer folds when there are fewer speakers."""
    ids = unique_ids([one.path for one in found])
    speakers = [one.speaker or name for name, one in zip(ids, found, strict=True)]
    count = min(folds, len(set(speakers)))
    if 1 < count < folds:
        print(f"there are {count} folds, as many as speakers")
    if found[0].speaker is None:
        warn(
            "speakers are unknown, so each recording counts as one and results may be too good; put the recordings of "
            "each speaker into a folder <class>/<speaker>"
        )
    fold_of = assign_folds(speakers, count)
    return [
        Recording(name, str(one.folder / one.path), one.label, speaker, fold_of[speaker])
        for name, one, speaker in zip(ids, found, speakers, strict=True)
    ]


if __name__ == "__main__":
    run(main, Options)
