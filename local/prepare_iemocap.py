"""Make data/iemocap_emotion/all from IEMOCAP as it is published: four classes, one fold per session.

    python local/prepare_iemocap.py --corpus corpora/IEMOCAP_full_release --data data/iemocap_emotion

Layout: <corpus>/Session1/dialog/EmoEvaluation/Ses01F_impro01.txt with a line `[start - end] turn emotion [v, a, d]` for
each turn, and <corpus>/Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav. The session and the letter of the
turn identify the speaker; the letter of the dialogue says who wore the motion-capture markers.

Classes are angry, happy, neutral and sad. Excited counts as happy, which gives the 5,531 utterances that most papers
use; --merge-excited false leaves excited out, which gives 4,490.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cslib.config import UserError, run
from cslib.corpora.class_preparation import Recording, compare_counts, prepare_classes

PUBLISHED_AT = "https://sail.usc.edu/iemocap"
SESSIONS = [f"Session{number}" for number in range(1, 6)]
CLASSES = {"ang": "angry", "hap": "happy", "exc": "happy", "neu": "neutral", "sad": "sad"}
PUBLISHED = {"angry": 1_103, "happy": 1_636, "neutral": 1_708, "sad": 1_084}
HAPPY_ALONE = 595
TURN = re.compile(r"\[[\d.]+ - [\d.]+\]\t(Ses0(\d)[FM]_\w+_([FM])\d+)\t(\w+)\t\[")


@dataclass
class Options:
    corpus: Path  # IEMOCAP_full_release, with Session1 to Session5
    data: Path = Path("data/iemocap_emotion")  # makes all/ in it
    merge_excited: bool = True  # true: excited counts as happy; false: it is left out
    nj: int = os.cpu_count() or 1  # number of processes


def main(options: Options) -> None:
    classes = {code: name for code, name in CLASSES.items() if options.merge_excited or code != "exc"}
    recordings = [one for session in SESSIONS for one in find_turns(options.corpus.absolute() / session, classes)]
    table = prepare_classes(options.data / "all", recordings, options.nj)
    compare_counts("IEMOCAP", table, PUBLISHED if options.merge_excited else {**PUBLISHED, "happy": HAPPY_ALONE})


def find_turns(session: Path, classes: dict[str, str]) -> Iterator[Recording]:
    """Yield the turns of a session that belong to the classes. Raises UserError when it has no turns at all."""
    turns = 0
    # EmoEvaluation also holds folders with the answers of single raters and, in the published archive, files of the
    # same names after "._" that hold something else.
    for path in sorted((session / "dialog" / "EmoEvaluation").glob("[!.]*.txt")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            found = TURN.match(line)
            if not found:
                continue
            turns += 1
            turn, number, sex, code = found.groups()
            if code in classes:
                wav = session / "sentences" / "wav" / path.stem / f"{turn}.wav"
                yield Recording(turn, str(wav), classes[code], f"Ses0{number}{sex}", f"session{number}", sex.lower())
    if not turns:
        raise UserError(
            f"{session}: there are no turns in dialog/EmoEvaluation; give the folder IEMOCAP_full_release, "
            f"with {SESSIONS[0]} to {SESSIONS[-1]}, as it comes from {PUBLISHED_AT}"
        )


if __name__ == "__main__":
    run(main, Options)
