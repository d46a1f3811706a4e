"""Do the halves of a recording find each other? A sign of a speaker encoder that needs no labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cslib.config import UserError

BLOCK = 1024  # halves compared with all others at a time


def retrieval_of_halves(ids: Sequence[str], embeddings: np.ndarray) -> float:
    """Share of halves whose nearest embedding by cosine, among all other halves, is the other half of their recording.

    ids         of the halves: that of the recording, then "-1" or "-2"
    embeddings  [n, E], not zero
    Chance is 1 / (n - 1). Speakers are not known: another recording of the same speaker counts as an error, and a
    recording channel that both halves share helps, as in clean trials. Compare systems on one set only.
    Raises UserError when a half lacks the other one.
    """
    place = {name: row for row, name in enumerate(ids)}
    try:
        other = np.array([place[f"{name[:-1]}{'2' if name.endswith('-1') else '1'}"] for name in ids])
    except KeyError as missing:
        raise UserError(f"the other half {missing} is not there; split the set again") from None
    vectors = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    found = 0
    for start in range(0, len(vectors), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(vectors)))
        cosines = vectors[rows] @ vectors.T
        cosines[np.arange(len(rows)), rows] = -np.inf
        found += int(np.count_nonzero(cosines.argmax(axis=1) == other[rows]))
    return found / len(vectors)
