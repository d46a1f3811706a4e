"""Make data/cremad_emotion/all from CREMA-D as it is published: four classes, five folds of actors.

    python local/prepare_cremad.py --corpus corpora/CREMA-D --data data/cremad_emotion

Layout: <corpus>/AudioWAV/1001_DFA_ANG_XX.wav: actor, sentence, emotion, level. The class is the emotion to be acted,
not the one that listeners perceived. Four of the six are kept, angry, happy, neutral and sad: 4,900 recordings of 91
actors. One of these (1076_MTI_SAD_XX) is silent and left out, so 4,899 remain. The fold depends on the actor's number
only.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from cslib.config import UserError, require, run
from cslib.corpora.class_preparation import Recording, compare_counts, prepare_classes

PUBLISHED_AT = "https://github.com/CheyneyComputerScience/CREMA-D"
CLASSES = {"ANG": "angry", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}  # DIS and FEA are left out
PUBLISHED = {"angry": 1_271, "happy": 1_271, "neutral": 1_087, "sad": 1_270}  # without the silent one
NAME = re.compile(r"(\d{4})_[A-Z]{3}_(ANG|DIS|FEA|HAP|NEU|SAD)_[A-Z]+")
FIRST_ACTOR = 1001


@dataclass
class Options:
    corpus: Path  # folder with AudioWAV
    data: Path = Path("data/cremad_emotion")  # makes all/ in it
    folds: int = 5  # number of folds; actor 1001 is in the first, 1002 in the second, and so on
    nj: int = os.cpu_count() or 1  # number of processes


def main(options: Options) -> None:
    require(options.folds >= 2, "--folds", options.folds, "at least 2")
    table = prepare_classes(options.data / "all", find_recordings(options.corpus, options.folds), options.nj)
    compare_counts("CREMA-D", table, PUBLISHED)


def find_recordings(corpus: Path, folds: int) -> list[Recording]:
    """The recordings of the four classes. Raises UserError when there are none, or when others are among them."""
    folder = corpus.absolute() / "AudioWAV"
    paths = sorted(folder.glob("[!.]*.wav"))
    if not paths:
        raise UserError(f"{folder}: there are no recordings; give the folder that holds AudioWAV, from {PUBLISHED_AT}")
    recordings = []
    for path in paths:
        name = NAME.fullmatch(path.stem)
        if not name:
            raise UserError(f"{path}: is not named like 1001_DFA_ANG_XX.wav; remove what does not belong to CREMA-D")
        actor, code = name.groups()
        if code in CLASSES:
            fold = (int(actor) - FIRST_ACTOR) % folds + 1
            recordings.append(Recording(path.stem, str(path), CLASSES[code], actor, f"fold{fold}"))
    return recordings


if __name__ == "__main__":
    run(main, Options)
