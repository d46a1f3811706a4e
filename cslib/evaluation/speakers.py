"""The true speakers, for scoring and diagnostics only: training never opens speakers.tsv."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cslib.config import UserError


def read_speakers(path: Path | str, utterances: Sequence[str]) -> np.ndarray:
    """int64 [n]: the number of the speaker of each utterance, from 0.

    Raises UserError when the file is absent, lacks the columns `utterance` and `speaker`, or lacks an utterance.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            table = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            if not {"utterance", "speaker"} <= set(table.fieldnames or ()):
                raise UserError(f"{path}: the first line must name the columns utterance and speaker")
            speaker_of = {row["utterance"]: row["speaker"] for row in table}
    except OSError as error:
        raise UserError(
            f"{path}: could not be read ({error.strerror}); confidence intervals need the "
            "true speakers of the test utterances"
        ) from None
    unknown = [name for name in utterances if not speaker_of.get(name)]
    if unknown:
        raise UserError(
            f"{path}: names no speaker for {len(unknown):,} of {len(utterances):,} utterances "
            f"(first: {unknown[0]}); give the speakers.tsv of the same test set"
        )
    return np.unique([speaker_of[name] for name in utterances], return_inverse=True)[1]
