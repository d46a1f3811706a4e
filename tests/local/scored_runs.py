"""Run folders with scores of a small trial list: eight speakers with four utterances each, all pairs."""

from pathlib import Path

import numpy as np

from cslib.data.trials import read_trials, write_trials
from cslib.evaluation.error_rates import equal_error_rate
from cslib.evaluation.score_files import write_scores
from cslib.files import write_json, write_lines

UTTERANCES = [f"u{n:02d}" for n in range(32)]


def write_trial_list(folder: Path, name: str = "clean") -> Path:
    """folder/data/test/trials/<name>.txt, with the speakers beside it."""
    pairs = [(a, b) for a in range(32) for b in range(a)]
    path = folder / f"data/test/trials/{name}.txt"
    write_trials(
        path,
        [UTTERANCES[a] for a, _ in pairs],
        [UTTERANCES[b] for _, b in pairs],
        np.array([a // 4 == b // 4 for a, b in pairs]),
    )
    lines = [f"{name}\ts{n // 4}" for n, name in enumerate(UTTERANCES)]
    write_lines(folder / "data/test/speakers.tsv", ["utterance\tspeaker", *lines])
    return path


def write_scored(folder: Path, system: str, trial_list: Path, seed: int, separation: float) -> dict:
    """folder/scores/<system>_<list>_cosine.{txt,json}, fewer errors with more separation -> the row of results.json."""
    trials = read_trials(trial_list)
    scores = np.random.default_rng(seed).standard_normal(len(trials)) + separation * trials.targets
    path = folder / "scores" / f"{system}_{trial_list.stem}_cosine.txt"
    write_scores(path, trials, scores)
    row = {
        "system": system,
        "trials": trial_list.stem,
        "scoring": "cosine",
        "eer": equal_error_rate(scores, trials.targets),
    }
    write_json(path.with_suffix(".json"), {"row": row, "trial_list": str(trial_list), "score_file": path.name})
    return row
