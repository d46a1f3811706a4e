"""What a run folder holds of results: score files, and the facts that every results.json states of its run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cslib.config import UserError
from cslib.data.trials import read_trials
from cslib.evaluation.bootstrap import drawn_eers
from cslib.evaluation.score_files import read_scores
from cslib.evaluation.speakers import read_speakers
from cslib.files import read_json
from cslib.provenance import commit

DRAWS = 200  # bootstrap draws of the test speakers


def provenance(seconds: Path | None, commits: Path | None) -> dict[str, Any]:
    """What made a run: "commit", "commits" and "seconds" of its results.json.

    seconds  JSON {part of the run: seconds that it took}
    commits  JSON {part of the run: commit of the code that made it}; "commit" is that of the code that runs now
    Either is empty when there is no such file. Raises UserError for a file of another kind.
    """
    return {"commit": commit(), "commits": _table(commits, str), "seconds": _table(seconds, (int, float))}


def _table(path: Path | None, kind: type | tuple[type, ...]) -> dict[str, Any]:
    values = read_json(path) if path and path.exists() else {}
    if not isinstance(values, dict) or not all(isinstance(value, kind) for value in values.values()):
        what = "a commit" if kind is str else "seconds"
        raise UserError(f"{path}: must be a JSON object with {what} for each part of the run; write it again")
    return values


def chosen(asked: str, found: Iterable[str], option: str, where: Path) -> list[str]:
    """The names that are asked for, separated by commas, or all that are found if none is asked for.

    Raises UserError when a name is not found.
    """
    known = list(dict.fromkeys(found))
    names = [name for name in asked.split(",") if name]
    absent = [name for name in names if name not in known]
    if absent:
        raise UserError(f"{option}: {where} has no scores of {absent[0]}; it has those of {', '.join(known)}")
    return names or known


def scored_path(run: Path, system: str, trials: str) -> Path:
    """Where local/score_trials.py writes the cosine scoring of a system on a trial list."""
    return run / "scores" / f"{system}_{trials}_cosine.json"


def drawn_rates(scored: Path) -> np.ndarray:
    """[1 + DRAWS] EER in percent: over all test speakers, then over those of each bootstrap draw.

    The draws are the same for all runs of a trial list.
    scored  a .json that local/score_trials.py wrote
    """
    found = read_json(scored)
    trials = read_trials(found["trial_list"])
    scores = read_scores(scored.with_name(found["score_file"]), trials)
    speakers = read_speakers(Path(found["trial_list"]).parents[1] / "speakers.tsv", trials.ids)
    pairs = speakers[trials.enrol_index], speakers[trials.test_index]
    return drawn_eers(scores, trials.targets, *pairs, draws=DRAWS)
