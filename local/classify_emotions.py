r"""Tell classes apart by embeddings: standardise, then logistic regression; every fold is tested on once.

    python local/classify_emotions.py --embeddings exp/mini_emotion/dino/embeddings/all.scp \
        --table data/mini_emotion/all/emotions.tsv --system dino --corpus mini --out exp/mini_emotion/scores

Means, deviations, weights and the strength of the regularisation come from the training folds alone; the strength is
chosen on speakers that were held out from the fit (see cslib/data/classes.py). Embeddings that differ from fold to
fold, as those of fine-tuned networks do, are given with {fold} where the fold's name stands in the path. Such a network
has learnt the classes of all its training speakers, in a cross-validation also of those whom a strength would be chosen
on: --strengths takes those that were chosen for the frozen network.

Writes <out>/<system>.tsv, each utterance with its class and the answer, and <system>.json: micro-F1, macro-F1 and UAR
in percent over all test folds together, with intervals by a bootstrap over speakers, and the confusion matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cslib.config import UserError, run
from cslib.data.classes import ClassTable
from cslib.data.embeddings import read_embeddings
from cslib.evaluation.classification import MEASURES, confusion_matrix, drawn_measures, interval, measures
from cslib.evaluation.linear_classifier import classify
from cslib.files import read_json, write_json, write_lines

FOLD = "{fold}"


@dataclass
class Options:
    embeddings: str  # .scp of all utterances; with {fold} in it, one for each fold
    table: Path  # emotions.tsv of the set
    system: str  # what to call these embeddings: floor, csc, dino or finetuned
    corpus: str  # what to call the corpus
    out: Path  # folder for the answers
    strengths: Path | None = None  # <system>.json whose strengths are taken, fold by fold (default: they are chosen)


def main(options: Options) -> None:
    table = ClassTable.read(options.table)
    embeddings = load(options.embeddings, table)
    answers, strengths, tested = np.full(len(table), "", dtype=table.labels.dtype), {}, []
    given = read_strengths(options.strengths, table) if options.strengths else {}
    for split in table.splits():
        if FOLD in options.embeddings:
            embeddings = load(options.embeddings.replace(FOLD, split.fold), table)
        check_classes(table, split.train, split.fold)
        answers[split.test], strengths[split.fold] = classify(embeddings, table.labels, split, given.get(split.fold))
        tested.append(split.test)
        print(
            f"{split.fold}: {len(split.test):,} utterances, C {strengths[split.fold]:g}, "
            f"{np.mean(answers[split.test] == table.labels[split.test]):.1%} right"
        )
    rows = np.sort(np.concatenate(tested))
    found = {
        "row": describe(options, table, answers, rows),
        "classes": table.classes(),
        "strengths": strengths,
        "confusion": confusion_matrix(*numbers(table, answers, rows), len(table.classes())).tolist(),
    }
    columns = (table.utterances, table.speakers, table.folds, table.labels, answers)
    write_lines(
        options.out / f"{options.system}.tsv",
        map(
            "\t".join,
            [
                ("utterance", "speaker", "fold", "class", "answer"),
                *zip(*(column[rows] for column in columns), strict=True),
            ],
        ),
    )
    write_json(options.out / f"{options.system}.json", found)
    print(
        f"{options.system}: "
        + ", ".join(
            f"{name} {found['row'][name]:.2f} [{low:.2f}, {high:.2f}]"
            for name, (low, high) in ((name, found["row"][f"{name}_ci95"]) for name in MEASURES)
        )
    )


def load(scp: str, table: ClassTable) -> np.ndarray:
    """float64 [n, E] in the order of the table; empty [n, 0] as long as a fold is to be named in the path.

    Raises UserError when an utterance has no embedding, or more than one.
    """
    if FOLD in scp:
        return np.zeros((len(table), 0))
    ids, embeddings = read_embeddings(Path(scp))
    row_of = {name: row for row, name in enumerate(ids)}
    missing = [name for name in table.utterances if name not in row_of]
    if missing:
        raise UserError(
            f"{scp}: lacks {len(missing):,} of {len(table):,} utterances (first: {missing[0]}); extract "
            "the embeddings of this set"
        )
    if embeddings.ndim != 2:
        raise UserError(f"{scp}: holds {embeddings.shape[1]} embeddings of each utterance; extract one of each")
    return embeddings[[row_of[name] for name in table.utterances]].astype(np.float64)


def read_strengths(path: Path, table: ClassTable) -> dict[str, float]:
    """The strength of each fold that is tested, as `main` wrote them. Raises UserError when one is missing."""
    strengths = read_json(path).get("strengths", {})
    missing = [fold for fold in table.tested() if fold not in strengths]
    if missing:
        raise UserError(f"{path}: has no strength for {missing[0]}; classify that system with the same table first")
    return strengths


def check_classes(table: ClassTable, train: np.ndarray, fold: str) -> None:
    """Raises UserError when there is nothing to learn; a class that only the held-out fold has is told."""
    known = set(table.labels[train])
    if len(known) < 2:
        raise UserError(f"without {fold} all utterances are of one class; give more speakers, or fewer folds")
    unknown = set(table.labels[table.folds == fold]) - known
    if unknown:
        print(f"{fold}: nothing else holds {', '.join(sorted(unknown))}, so it cannot be recognised there")


def numbers(table: ClassTable, answers: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(classes, answers) of those rows, as numbers of the classes."""
    return np.searchsorted(table.classes(), table.labels[rows]), np.searchsorted(table.classes(), answers[rows])


def describe(options: Options, table: ClassTable, answers: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    """The row of results.json."""
    truth, predicted = numbers(table, answers, rows)
    count = len(table.classes())
    values = measures(confusion_matrix(truth, predicted, count))
    try:
        intervals = interval(drawn_measures(truth, predicted, table.speakers[rows], count))
    except ValueError as error:
        raise UserError(f"{options.table}: {error}; give more speakers to test on") from None
    return {
        "system": options.system,
        "corpus": options.corpus,
        "folds": len(table.tested()),
        **dict(zip(MEASURES, values.tolist(), strict=True)),
        **{f"{name}_ci95": ends for name, ends in zip(MEASURES, intervals.tolist(), strict=True)},
        "utterances": len(rows),
        "speakers": len(set(table.speakers[rows])),
        "classes": count,
    }


if __name__ == "__main__":
    run(main, Options)
