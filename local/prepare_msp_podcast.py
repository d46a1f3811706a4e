"""Make data/msp_podcast_emotion/all from MSP-Podcast as it is published: five classes and the published split.

    python local/prepare_msp_podcast.py --corpus corpora/MSP-PODCAST-Publish --data data/msp_podcast_emotion

Layout: <corpus>/Labels/labels_consensus.csv (in older releases labels_concensus.csv) with the columns FileName,
EmoClass, SpkrID, Gender and Split_Set, and <corpus>/Audios/MSP-PODCAST_0001_0008.wav (or Audio/). Classes: angry,
happy, neutral, sad and disgust, by the majority of the raters. Train is for training, Development (Validation in older
releases) for choosing hyperparameters, Test1 for the test; other parts are left out.

A recording whose speaker is "Unknown" counts as a speaker of its own. Recordings in Train of speakers of Development or
Test1, and recordings in Development of speakers of Test1, are left out, and their number is printed.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cslib.config import UserError, run
from cslib.corpora.class_preparation import Recording, prepare_classes
from cslib.data.classes import DEVELOPMENT, TRAIN
from cslib.files import warn

CLASSES = {"A": "angry", "H": "happy", "N": "neutral", "S": "sad", "D": "disgust"}
PARTS = {"Train": TRAIN, "Development": DEVELOPMENT, "Validation": DEVELOPMENT, "Test1": "test1"}
PARTS_IN_ORDER = ("test1", DEVELOPMENT, TRAIN)  # a speaker in several parts stays in the first of them
LABELS = ("labels_consensus.csv", "labels_concensus.csv")
AUDIO = ("Audios", "Audio")
COLUMNS = ("FileName", "EmoClass", "SpkrID", "Gender", "Split_Set")


@dataclass
class Options:
    corpus: Path  # folder with Labels and Audios
    data: Path = Path("data/msp_podcast_emotion")  # makes all/ in it
    nj: int = os.cpu_count() or 1  # number of processes


def main(options: Options) -> None:
    audio = find_audio(options.corpus.absolute())
    recordings = read_recordings(find_labels(options.corpus), audio)
    present = Counter(one.fold for one in recordings)
    if not all(present[part] for part in PARTS_IN_ORDER):
        raise UserError(
            f"{options.corpus}: Train, Development and Test1 must hold recordings of the five classes, "
            f"but they hold {present[TRAIN]:,}, {present[DEVELOPMENT]:,} and {present['test1']:,}"
        )
    prepare_classes(options.data / "all", apart(recordings), options.nj)


def find_audio(corpus: Path) -> Path:
    """The folder of recordings. Raises UserError when there is none."""
    for name in AUDIO:
        if (corpus / name).is_dir():
            return corpus / name
    raise UserError(
        f"{corpus}: there is neither {' nor '.join(AUDIO)} in it; give the folder that holds Labels and "
        "Audios of MSP-Podcast"
    )


def find_labels(corpus: Path) -> Path:
    """The table of labels. Raises UserError when there is none."""
    for name in LABELS:
        if (corpus / "Labels" / name).is_file():
            return corpus / "Labels" / name
    raise UserError(
        f"{corpus / 'Labels'}: there is no {LABELS[0]}; give the folder that holds Labels and Audios of MSP-Podcast"
    )


def read_recordings(labels: Path, audio: Path) -> list[Recording]:
    """The recordings of the classes and parts in use. Raises UserError when the table lacks a column."""
    with open(labels, encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (table.fieldnames or [])]
        if missing:
            raise UserError(f"{labels}: there is no column {', '.join(missing)} in its first line; download it again")
        rows = [row for row in table if row["EmoClass"] in CLASSES and row["Split_Set"] in PARTS]
    return [_recording(row, audio) for row in rows]


def _recording(row: dict[str, str], audio: Path) -> Recording:
    name = Path(row["FileName"]).stem
    unknown = row["SpkrID"].strip().lower() in ("", "unknown")
    sex = {"Male": "m", "Female": "f"}.get(row["Gender"], "-")
    return Recording(
        name,
        str(audio / row["FileName"]),
        CLASSES[row["EmoClass"]],
        f"unknown-{name}" if unknown else row["SpkrID"].strip(),
        PARTS[row["Split_Set"]],
        sex,
    )


def apart(recordings: list[Recording]) -> list[Recording]:
    """The recordings without those that would put a speaker into two parts; warns with the number left out."""
    part_of: dict[str, str] = {}
    for part in PARTS_IN_ORDER:
        for one in recordings:
            if one.fold == part:
                part_of.setdefault(one.speaker, part)
    kept = [one for one in recordings if one.fold == part_of[one.speaker]]
    if len(kept) < len(recordings):
        left_out = Counter(one.fold for one in recordings if one.fold != part_of[one.speaker])
        told = " and ".join(f"{count:,} of {part}" for part, count in sorted(left_out.items()))
        warn(f"recordings left out because their speakers are also in a held-out part: {told}")
    return kept


if __name__ == "__main__":
    run(main, Options)
