r"""Classify embeddings by standardisation and logistic regression, in a cross-validation over speaker folds.

    python local/classify_emotions.py --embeddings exp/mini_emotion/dino/embeddings/all.scp \
        --table data/mini_emotion/all/emotions.tsv --system dino --corpus mini --out exp/mini_emotion/scores

Means, deviations, weights and the regularisation strength come from the training folds alone; the strength is selected
on training speakers held out from the fit (see cslib/data/classes.py). For embeddings that differ from fold to fold,
as those of fine-tuned networks do, write {fold} for the fold's name in the path. A fine-tuned network has learnt the
classes of all its training speakers, including those on whom a strength would be selected: --strengths takes the
strengths selected for the frozen network.

Writes <out>/<system>.tsv, the class and the answer of each utterance, and <system>.json: micro-F1, macro-F1 and UAR in
percent over all test folds together, with confidence intervals by bootstrap over speakers, and the confusion matrix.
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
    embeddings: str  # .scp of all utterances; with {fold} in the path, one per fold
    table: Path  # emotions.tsv of the set
    system: str  # name of these embeddings: floor, csc, dino or finetuned
    corpus: str  # name of the corpus
    out: Path  # folder for the answers
    strengths: Path | None = None  # <system>.json with the strength for each fold (default: selected here)


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
    """Embeddings float64 [n, E] in the order of the table; [n, 0] while {fold} stands in the path.

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
            "the embeddings of this set again"
        )
    if embeddings.ndim != 2:
        raise UserError(f"{scp}: holds {embeddings.shape[1]} embeddings of each utterance; extract one per utterance")
    return embeddings[[row_of[name] for name in table.utterances]].astype(np.float64)


def read_strengths(path: Path, table: ClassTable) -> dict[str, float]:
    """The strength of each test fold, as written by `main`. Raises UserError when one is missing."""
    strengths = read_json(path).get("strengths", {})
    missing = [fold for fold in table.tested() if fold not in strengths]
    if missing:
        raise UserError(f"{path}: has no strength for {missing[0]}; classify that system with the same table first")
    return strengths


def check_classes(table: ClassTable, train: np.ndarray, fold: str) -> None:
    """Raise UserError without two training classes; print the classes that only the held-out fold has."""
    known = set(table.labels[train])
    if len(known) < 2:
        raise UserError(f"without {fold} all utterances are of one class; use more speakers or fewer folds")
    unknown = set(table.labels[table.folds == fold]) - known
    if unknown:
        print(f"{fold}: no other fold holds {', '.join(sorted(unknown))}, which cannot be recognised there")


def numbers(table: ClassTable, answers: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Classes and answers of these rows, int64, as positions in `table.classes()`."""
    return np.searchsorted(table.classes(), table.labels[rows]), np.searchsorted(table.classes(), answers[rows])


def describe(options: Options, table: ClassTable, answers: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    """The row of results.json."""
    truth, predicted = numbers(table, answers, rows)
    count = len(table.classes())
    values = measures(confusion_matrix(truth, predicted, count))
    try:
        intervals = interval(drawn_measures(truth, predicted, table.speakers[rows], count))
    except ValueError as error:
        raise UserError(f"{options.table}: {error}; use more test speakers") from None
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
