r"""Equal error rates of adverse trials by how adverse they are: by noise and by interfering talkers.

    python local/tabulate_conditions.py --conditions data/mini/test_adverse/conditions.tsv \
        --trials data/mini/test_adverse/trials/adverse.txt \
        --scores exp/mini_csc/scores/csc_adverse_cosine.txt,exp/mini_csc/scores/csc_adverse_enhanced_cosine.txt

Prints a Markdown table, a column for each file of scores of these trials. A trial has two recordings: its SNR is the
lower one of the two, and talkers interfere in none, one or both.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cslib.config import UserError, run
from cslib.data.trials import Trials, read_trials
from cslib.files import write_lines
from cslib.scoring.metrics import equal_error_rate
from cslib.scoring.score_files import read_scores

EDGES = (0.0, 5.0, 10.0, 15.0)  # dB
INTERFERERS = ("none", "in one", "in both")


@dataclass
class Options:
    scores: str  # score files of score_trials.py, with commas between
    trials: Path  # the trial list that they are of
    conditions: Path  # conditions.tsv of make_adverse.py
    out: Path | None = None  # Markdown file; it is printed without


def main(options: Options) -> None:
    trials = read_trials(options.trials)
    paths = [Path(name) for name in options.scores.split(",")]
    scores = [read_scores(path, trials) for path in paths]
    groups = trial_groups(trials, options.conditions)
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):   # the same system of several runs
        names = [f"{path.parent.parent.name} {path.stem}" for path in paths]
    lines = ["| " + " | ".join(["trials", "targets", "non-targets", *names]) + " |",
             "|---" * (3 + len(paths)) + "|"]
    for name, chosen in groups.items():
        targets = trials.targets[chosen]
        # With a single class there is no error rate.
        rates = ["-"] * len(paths) if targets.all() or not targets.any() else \
            [f"{equal_error_rate(values[chosen], targets):.2f}" for values in scores]
        lines.append("| " + " | ".join([name, f"{targets.sum():,}", f"{(~targets).sum():,}", *rates]) + " |")
    print("\n".join(lines))
    if options.out:
        write_lines(options.out, lines)


def trial_groups(trials: Trials, conditions: Path) -> dict[str, np.ndarray]:
    """Name -> bool [n], which trials are of the group. Raises UserError when a recording has no conditions."""
    try:
        with open(conditions, encoding="utf-8", newline="") as file:
            known = {row["utterance"]: (float(row["snr"]), row["interferer"] != "-")
                     for row in csv.DictReader(file, delimiter="\t")}
        snr, talker = np.array([known[name] for name in trials.ids]).T
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{conditions}: not the conditions of these trials ({error}); give conditions.tsv of the set "
                        "that they are of") from None
    worse = np.minimum(snr[trials.enrol_index], snr[trials.test_index])
    count = talker[trials.enrol_index] + talker[trials.test_index]
    groups = {"all": np.ones(len(trials), bool)}
    for low, high in zip(EDGES, EDGES[1:], strict=False):
        last = high == EDGES[-1]
        groups[f"SNR {low:g} to {high:g} dB"] = (worse >= low) & ((worse <= high) if last else (worse < high))
    return groups | {f"interferer {name}": count == number for number, name in enumerate(INTERFERERS)}


if __name__ == "__main__":
    run(main, Options)
