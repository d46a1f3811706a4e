"""Score files: `enrol test score`, one line per trial, in any order."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cslib.config import UserError
from cslib.data.trials import Trials, numbering, numbers_of, read_columns
from cslib.files import write_lines

FIELDS = "enrol test score"


def write_scores(path: Path | str, trials: Trials, scores: np.ndarray) -> int:
    """Write scores [n] in the order of the trials. Nine digits represent float32 exactly, ties included."""
    return write_lines(
        path,
        (
            f"{enrol} {test} {score:.9g}"
            for enrol, test, score in zip(trials.enrol, trials.test, scores.tolist(), strict=True)
        ),
    )


def read_scores(path: Path | str, trials: Trials) -> np.ndarray:
    """Scores float64 [n] in the order of the trials, whatever the order of the lines.

    Raises UserError when a pair is missing, occurs twice or is not a trial, or a score is not a finite number.
    """
    index = numbering()
    own = numbers_of([name.encode() for name in trials.ids], index)  # 0, 1, ...; names of other utterances follow
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for number, (enrol, test, words) in read_columns(path, FIELDS):
        found.append((_keys(numbers_of(enrol, index), numbers_of(test, index)), _numbers(path, number, words)))
    pairs, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
    wanted = _keys(own[trials.enrol_index], own[trials.test_index])
    here, there = np.argsort(pairs, kind="stable"), np.argsort(wanted, kind="stable")
    if not np.array_equal(pairs[here], wanted[there]):
        raise _mismatch(path, pairs, wanted, list(index))
    ordered = np.empty(len(trials))
    ordered[there] = scores[here]
    return ordered


def _keys(enrol: np.ndarray, test: np.ndarray) -> np.ndarray:
    return enrol.astype(np.int64) << 32 | test


def _numbers(path: Path | str, number: int, words: list[bytes]) -> np.ndarray:
    try:
        scores = np.fromiter(map(float, words), dtype=np.float64, count=len(words))
    except ValueError:
        raise _bad_score(path, number) from None
    if not np.isfinite(scores).all():
        raise _bad_score(path, number)
    return scores


def _bad_score(path: Path | str, number: int) -> UserError:
    """Names the first line, from `number` on, whose score is not a finite number."""
    with open(path, "rb") as file:
        for at, line in enumerate(file, start=1):
            words = line.split()
            if at >= number and words and not _is_finite(words[2]):
                score = words[2].decode(errors="replace")
                return UserError(f"{path}: line {at} has the score {score!r}; expected a finite number")
    raise AssertionError("called for a chunk without a bad score")


def _is_finite(word: bytes) -> bool:
    try:
        return bool(np.isfinite(float(word)))
    except ValueError:
        return False


def _mismatch(path: Path | str, pairs: np.ndarray, wanted: np.ndarray, ids: list[bytes]) -> UserError:
    found, times = np.unique(pairs, return_counts=True)
    expected, times_expected = np.unique(wanted, return_counts=True)
    missing, extra = np.setdiff1d(expected, found), np.setdiff1d(found, expected)
    if len(missing):
        keys, wrong = missing, f"no score for {len(missing):,} of the {len(expected):,} pairs of the trials"
    elif len(extra):
        keys, wrong = extra, f"scores for {len(extra):,} pairs that are not trials"
    else:
        keys = found[times != times_expected]
        wrong = f"a different number of scores than of trials for {len(keys):,} pairs"
    first = b" ".join([ids[keys[0] >> 32], ids[keys[0] & 0xFFFFFFFF]]).decode(errors="replace")
    return UserError(f"{path}: has {wrong} (first: {first}); score this trial list again")
