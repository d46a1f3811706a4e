r"""Check a threshold that was estimated without labels on a trial list with known answers.

    python local/check_calibration.py --calibration exp/mini_dino/final/calibration.json \
        --scores exp/mini_dino/scores/final_clean_cosine.txt --trials data/mini/test/trials/clean.txt

Prints the miss rate and the false-alarm rate at the threshold of `python -m cslib verify`, the rates that the
calibration expected from pseudo-labels, and the equal error rate of the trials for comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cslib.config import run
from cslib.data.trials import read_trials
from cslib.evaluation.calibration import open_calibration
from cslib.evaluation.error_rates import equal_error_rate
from cslib.evaluation.score_files import read_scores


@dataclass
class Options:
    calibration: Path  # calibration.json of a system
    scores: Path  # cosine scores of that system, from score_trials.py
    trials: Path  # the trial list that was scored


def main(options: Options) -> None:
    calibration, trials = open_calibration(options.calibration), read_trials(options.trials)
    scores = read_scores(options.scores, trials)
    targets, others = scores[trials.targets], scores[~trials.targets]
    missed, false_alarms = np.mean(targets < calibration.threshold), np.mean(others >= calibration.threshold)
    print(
        f"{options.scores}: threshold {calibration.threshold:.3f}, misses {100 * missed:.2f} % (expected "
        f"{100 * calibration.missed:.2f} %), false alarms {100 * false_alarms:.2f} % (expected "
        f"{100 * calibration.false_alarms:.2f} %); EER {equal_error_rate(scores, trials.targets):.2f} %"
    )


if __name__ == "__main__":
    run(main, Options)
