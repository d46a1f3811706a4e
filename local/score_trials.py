r"""Score a trial list with embeddings, and say what the scores are worth.

    python local/score_trials.py --embeddings exp/mini_csc/embeddings/test.scp \
        --trials data/mini/test/trials/clean.txt --speakers data/mini/test/speakers.tsv \
        --cohort exp/mini_csc/embeddings/train.scp --system csc --out exp/mini_csc/scores

Writes <out>/<system>_<trials>_<scoring>.txt (`enrol test score`) and beside it a .json of its error rates:

    cosine   cosine of the two embeddings, or of the most alike pair of streams
    mean     the same after the mean embedding of the training set is subtracted
    asnorm   "mean", normalised against a cohort of training utterances (AS-norm)
    plda     log-likelihood ratio of a PLDA model, learnt from pseudo-labels of the training set: --labels
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cslib.config import UserError, run
from cslib.data.embeddings import read_embeddings
from cslib.data.labels import read_table
from cslib.data.trials import Trials, read_trials
from cslib.devices import device_named
from cslib.evaluation.bootstrap import eer_interval
from cslib.evaluation.cosine import cosine_scores, mean_embedding, unit_embeddings
from cslib.evaluation.error_rates import equal_error_rate, min_dcf
from cslib.evaluation.normalisation import as_norm, cohort_statistics
from cslib.evaluation.plda import Plda, fit_plda
from cslib.evaluation.score_files import write_scores
from cslib.evaluation.speakers import read_speakers
from cslib.files import write_json

SCORINGS = ("cosine", "mean", "asnorm", "plda")


@dataclass
class Options:
    embeddings: Path  # .scp of the test set
    trials: Path  # trial list; its name without the ending names the rows
    speakers: Path  # speakers.tsv of the test set, for the confidence intervals
    system: str  # what to call these embeddings: floor, csc, dino, round1, ..., final
    out: Path  # folder for the scores
    scoring: str = "cosine,mean,asnorm"  # which of cosine, mean, asnorm and plda, with commas between
    cohort: Path | None = None  # .scp of the training set; only cosine does without
    cohort_size: int = 20000  # training utterances for AS-norm, drawn at random; the mean is of all
    top_k: int = 300  # how many of them, the most alike, count
    labels: Path | None = None  # pseudo-labels of the training set, from clustering; only plda needs them
    plda_size: int = 150  # dimensions in which plda lets speakers differ; fewer where the labels allow no more
    seed: int = 0  # of the cohort and the bootstrap
    device: str = "auto"  # cpu, cuda, ...; auto takes a GPU when there is one


def main(options: Options) -> None:
    wanted = options.scoring.split(",")
    if set(wanted) - set(SCORINGS):
        raise UserError(f"--scoring {options.scoring}: give some of {','.join(SCORINGS)}")
    if options.cohort is None and wanted != ["cosine"]:
        raise UserError(
            "mean, asnorm and plda need --cohort; give the embeddings of the training set, or ask for "
            "--scoring cosine alone"
        )
    if options.labels is None and "plda" in wanted:
        raise UserError("plda needs --labels; give the pseudo-labels of the training set, or leave it out of --scoring")
    trials = read_trials(options.trials)
    speakers = read_speakers(options.speakers, trials.ids)
    ids, embeddings = read_embeddings(options.embeddings)
    embeddings = embeddings[trials.rows_in(ids, str(options.embeddings))]  # from here on, row = trials.ids
    members, cohort = read_embeddings(options.cohort) if options.cohort else ([], embeddings[:0])
    if cohort.shape[1:] != embeddings.shape[1:]:
        raise UserError(
            f"{options.cohort}: has embeddings of shape {list(cohort.shape[1:])}, and "
            f"{options.embeddings} of {list(embeddings.shape[1:])}; extract both alike"
        )
    try:
        plda = learn_plda(options, members, cohort) if "plda" in wanted else None
        for scoring in wanted:
            scores = score(options, scoring, trials, embeddings, cohort, plda)
            report(options, scoring, trials, speakers, scores)
    except ValueError as error:  # one class missing, not finite, too few speakers or cohort utterances
        raise UserError(f"{options.trials}, {options.embeddings}: {error}; mend or replace them") from None


def score(
    options: Options, scoring: str, trials: Trials, embeddings: np.ndarray, cohort: np.ndarray, plda: Plda | None
) -> np.ndarray:
    """[n] float32 scores of the trials."""
    device = device_named(options.device)
    pairs = trials.enrol_index, trials.test_index
    if scoring == "plda":
        return plda.scores(embeddings, *pairs, device)
    if scoring == "cosine":
        return cosine_scores(unit_embeddings(embeddings, device=device), *pairs)
    mean = mean_embedding(cohort)
    embeddings = unit_embeddings(embeddings, mean, device)
    scores = cosine_scores(embeddings, *pairs)
    if scoring == "mean":
        return scores
    drawn = np.random.default_rng(options.seed).permutation(len(cohort))[: options.cohort_size]
    drawn = unit_embeddings(cohort[np.sort(drawn)], mean, device)
    return as_norm(scores, *pairs, cohort_statistics(embeddings, drawn, options.top_k))


def learn_plda(options: Options, members: list[str], cohort: np.ndarray) -> Plda:
    """From the cohort, all of it, and its pseudo-labels. The table of true speakers has no such column."""
    if cohort.ndim != 2:
        raise UserError(
            f"{options.cohort}: plda takes one embedding an utterance, and here are {cohort.shape[1]}; "
            "leave it out of --scoring"
        )
    if options.plda_size < 1:
        raise UserError(f"--plda-size {options.plda_size}: give 1 or more")
    table = read_table(options.labels, "label")
    names = np.array([table.get(member, "-1") for member in members])
    if (names == "-1").all():
        raise UserError(
            f"{options.labels}: has a label for none of the {len(names):,} utterances of "
            f"{options.cohort}; give the pseudo-labels of the same set"
        )
    labels = np.where(names == "-1", -1, np.unique(names, return_inverse=True)[1])
    plda = fit_plda(cohort, labels, options.plda_size)
    if len(plda.between) < options.plda_size:
        print(
            f"plda: speakers differ in {len(plda.between):,} dimensions, not in {options.plda_size:,}; "
            f"{len(set(names) - {'-1'}):,} clusters of embeddings of {len(plda.mean):,} numbers tell of no more"
        )
    return plda


def report(options: Options, scoring: str, trials: Trials, speakers: np.ndarray, scores: np.ndarray) -> None:
    """Write the score file and its row of results.json, and print the row."""
    interval = eer_interval(
        scores, trials.targets, speakers[trials.enrol_index], speakers[trials.test_index], seed=options.seed
    )
    row = {
        "system": options.system,
        "trials": options.trials.stem,
        "scoring": scoring,
        "eer": equal_error_rate(scores, trials.targets),
        "eer_ci95": list(interval),
        "min_dcf_0.01": min_dcf(scores, trials.targets),
        "targets": int(trials.targets.sum()),
        "nontargets": int((~trials.targets).sum()),
    }
    path = options.out / f"{options.system}_{options.trials.stem}_{scoring}.txt"
    write_scores(path, trials, scores)
    origin = {"trial_list": str(options.trials), "score_file": path.name}
    write_json(path.with_suffix(".json"), {"row": row, **origin})
    print(
        f"{path}: EER {row['eer']:.2f} % [{interval[0]:.2f}, {interval[1]:.2f}], "
        f"minDCF {row['min_dcf_0.01']:.3f}, {len(trials):,} trials"
    )


if __name__ == "__main__":
    run(main, Options)
