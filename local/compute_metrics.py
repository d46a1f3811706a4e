r"""Print the error rates of a score file as one line of JSON.

    python local/compute_metrics.py --trials data/mini/test/trials/clean.txt \
        --scores exp/mini_csc/scores/csc_clean_cosine.txt
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cslib.config import UserError, run
from cslib.data.trials import read_trials
from cslib.evaluation.error_rates import error_rates
from cslib.evaluation.score_files import read_scores


@dataclass
class Options:
    trials: Path  # `enrol test target|nontarget` or VoxCeleb's `1|0 enrol test`
    scores: Path  # `enrol test score`, in any order


def main(options: Options) -> None:
    trials = read_trials(options.trials)
    scores = read_scores(options.scores, trials)
    try:
        rates = error_rates(scores, trials.targets)
    except ValueError as error:  # one class missing
        raise UserError(f"{options.trials}: {error}; complete the trial list") from None
    counts = {"targets": int(trials.targets.sum()), "nontargets": int((~trials.targets).sum())}
    print(json.dumps({**rates, **counts}))


if __name__ == "__main__":
    run(main, Options)
