r"""Score a trial list with embeddings and print error rates.

    python local/score_trials.py --embeddings exp/mini_csc/embeddings/test.scp \
        --trials data/mini/test/trials/clean.txt --speakers data/mini/test/speakers.tsv \
        --cohort exp/mini_csc/embeddings/train.scp --system csc --out exp/mini_csc/scores

Writes <out>/<system>_<trials>_<scoring>.txt (`enrol test score`) and, beside it, a .json with the error rates. Each
scoring is a file of cslib/evaluation/scorings:

    cosine   cosine of the two embeddings; with separated streams, of the most similar pair
    mean     cosine after the mean embedding of the training set is subtracted
    asnorm   "mean", normalised against a cohort of training utterances (AS-norm)
    plda     log-likelihood ratio of a PLDA model, trained on pseudo-labels of the training set (--labels)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cslib.config import UserError, find, run
from cslib.data.embeddings import read_embeddings
from cslib.data.trials import Trials, read_trials
from cslib.devices import device_named
from cslib.evaluation.bootstrap import eer_interval
from cslib.evaluation.error_rates import error_rates
from cslib.evaluation.score_files import write_scores
from cslib.evaluation.scorings import scoring_names
from cslib.evaluation.scorings.base import Background, Scorer, ScoringConfig
from cslib.evaluation.speakers import read_speakers
from cslib.files import write_json


@dataclass(kw_only=True)
class Options(ScoringConfig):
    embeddings: Path  # .scp of the test set
    trials: Path  # trial list; its name without the ending appears in the results
    speakers: Path  # speakers.tsv of the test set, for the confidence intervals
    system: str  # name of the system in the results: floor, csc, dino, round1, ..., final
    out: Path  # folder for the scores
    scoring: str = "cosine,mean,asnorm"  # any of cosine, mean, asnorm and plda, separated by commas
    cohort: Path | None = None  # .scp of the training set; every scoring but cosine needs it
    labels: Path | None = None  # pseudo-labels of the training set, from clustering; plda needs them
    device: str = "auto"  # cpu, cuda, ...; auto uses a GPU if there is one


def main(options: Options) -> None:
    wanted = options.scoring.split(",")
    check_scorings(options, wanted)
    trials = read_trials(options.trials)
    speakers = read_speakers(options.speakers, trials.ids)
    ids, embeddings = read_embeddings(options.embeddings)
    embeddings = embeddings[trials.rows_in(ids, str(options.embeddings))]  # from here on, row = trials.ids
    background = read_background(options, embeddings)
    try:
        # All are built before the first one is used: what is wrong with labels is found before anything is written.
        scorers: dict[str, Scorer] = {
            name: find("evaluation.scorings", name).build(background) for name in dict.fromkeys(wanted)
        }
        for name, scorer in scorers.items():
            report(options, name, trials, speakers, scorer(embeddings, trials.enrol_index, trials.test_index))
    except ValueError as error:  # one class missing, not finite, too few speakers or cohort utterances
        raise UserError(f"{options.trials}, {options.embeddings}: {error}; fix or replace them") from None


def check_scorings(options: Options, wanted: list[str]) -> None:
    """Raise UserError when a scoring is unknown, or needs an option that is not given."""
    known = scoring_names()
    if set(wanted) - set(known):
        raise UserError(f"--scoring is {options.scoring}; it must be some of {','.join(known)}")
    for name in wanted:
        for need in find("evaluation.scorings", name).NEEDS:
            if getattr(options, need) is None:
                what = {"cohort": "the embeddings", "labels": "the pseudo-labels"}[need]
                raise UserError(
                    f"{name} needs --{need}; give {what} of the training set, or leave {name} out of --scoring"
                )


def read_background(options: Options, embeddings: np.ndarray) -> Background:
    """The training set. Raises UserError when its embeddings differ from those of the test set in shape."""
    members, cohort = read_embeddings(options.cohort) if options.cohort else ([], embeddings[:0])
    if cohort.shape[1:] != embeddings.shape[1:]:
        raise UserError(
            f"{options.cohort}: has embeddings of shape {list(cohort.shape[1:])}, and {options.embeddings} of "
            f"{list(embeddings.shape[1:])}; extract both with the same network and options"
        )
    return Background(
        config=options,
        ids=members,
        embeddings=cohort,
        labels=options.labels,
        cohort=options.cohort,
        device=device_named(options.device),
    )


def report(options: Options, scoring: str, trials: Trials, speakers: np.ndarray, scores: np.ndarray) -> None:
    """Write the score file and its row of results.json, and print the row."""
    pairs = speakers[trials.enrol_index], speakers[trials.test_index]
    low, high = eer_interval(scores, trials.targets, *pairs, seed=options.seed)
    rates = error_rates(scores, trials.targets)
    row = {
        "system": options.system,
        "trials": options.trials.stem,
        "scoring": scoring,
        "eer": rates.pop("eer"),
        "eer_ci95": [low, high],
        **rates,
        "targets": int(trials.targets.sum()),
        "nontargets": int((~trials.targets).sum()),
    }
    path = options.out / f"{options.system}_{options.trials.stem}_{scoring}.txt"
    write_scores(path, trials, scores)
    origin = {"trial_list": str(options.trials), "score_file": path.name}
    write_json(path.with_suffix(".json"), {"row": row, **origin})
    print(
        f"{path}: EER {row['eer']:.2f} % [{low:.2f}, {high:.2f}], "
        f"minDCF {row['min_dcf_0.01']:.3f}, {len(trials):,} trials"
    )


if __name__ == "__main__":
    run(main, Options)
