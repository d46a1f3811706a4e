r"""Gather what classify_emotions.py found for one run: results.json, a table, a picture of confusion matrices.

    python local/make_emotion_results.py --exp exp/mini_emotion --corpus mini --seed 1 \
        --seconds exp/mini_emotion/seconds.json

Reads <exp>/scores/<system>.{json,tsv}; writes <exp>/results.json and <exp>/confusion.png. Gains over the floor are of
the same utterances, their intervals of the same draws of speakers: they tell how far other speakers would move them,
not how far another training of the encoder would.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cslib.config import UserError, run
from cslib.evaluation.classification import MEASURES, drawn_measures, interval
from cslib.evaluation.plots import plot_confusions
from cslib.files import aligned, read_json, write_json
from cslib.provenance import commit

ORDER = ("floor", "csc", "dino", "finetuned")  # of the systems; others come after them
COLUMNS = ("utterance", "speaker", "class", "answer")


@dataclass
class Options:
    exp: Path  # run folder
    corpus: str  # mini, iemocap, cremad, msp_podcast or folder
    seed: int  # of the fine-tuning
    recipe: str = "emotion"  # folder of the recipe under egs/
    method: str = "linear"  # the classifier
    seconds: Path | None = None  # JSON {stage: seconds}; none is known without it


def main(options: Options) -> None:
    scores = options.exp / "scores"
    systems = sorted(
        (path.stem for path in scores.glob("*.json")),
        key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name),
    )
    if not systems:
        raise UserError(f"{scores}: holds no scores; run local/classify_emotions.py first")
    found = {name: read_json(scores / f"{name}.json") for name in systems}
    answers = {name: read_answers(scores / f"{name}.tsv") for name in systems}
    rows = [one["row"] for one in found.values()]
    gains = [over_floor(name, found, answers) for name in systems if "floor" in systems and name != "floor"]
    write_json(
        options.exp / "results.json",
        {
            "recipe": options.recipe,
            "corpus": options.corpus,
            "method": options.method,
            "seed": options.seed,
            "commit": commit(),
            "rows": rows,
            "over_floor": gains,
            "confusion": {name: {"classes": one["classes"], "counts": one["confusion"]} for name, one in found.items()},
            "seconds": read_json(options.seconds) if options.seconds and options.seconds.exists() else {},
        },
    )
    print(table(rows))
    for gain in gains:
        print(
            f"{gain['system']} over floor: "
            + ", ".join(
                f"{name} {gain[name]:+.2f} [{gain[f'{name}_ci95'][0]:+.2f}, {gain[f'{name}_ci95'][1]:+.2f}]"
                for name in MEASURES
            )
        )
    plot_confusions(
        {f"{name}, micro-F1 {one['row']['micro_f1']:.1f} %": np.array(one["confusion"]) for name, one in found.items()},
        found[systems[0]]["classes"],
        options.exp / "confusion.png",
        options.corpus,
    )


def read_answers(path: Path) -> dict[str, np.ndarray]:
    """The columns of what classify_emotions.py wrote, each [n]."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
            return {name: np.array([line[name] for line in lines]) for name in COLUMNS}
    except (OSError, KeyError):
        raise UserError(f"{path}: no table of answers; run local/classify_emotions.py again") from None


def over_floor(
    name: str, found: dict[str, dict[str, Any]], answers: dict[str, dict[str, np.ndarray]]
) -> dict[str, Any]:
    """Gain of a system in points, and its 95 % interval. Raises UserError when it answered for other utterances."""
    own, floor = answers[name], answers["floor"]
    if any(not np.array_equal(own[column], floor[column]) for column in ("utterance", "speaker", "class")):
        raise UserError(f"the answers of {name} and of floor are for other utterances; classify both again (stage 4)")
    classes = found[name]["classes"]
    truth = np.searchsorted(classes, own["class"])
    drawn = [
        drawn_measures(truth, np.searchsorted(classes, one["answer"]), one["speaker"], len(classes))
        for one in (own, floor)
    ]
    ends = interval(drawn[0] - drawn[1]).tolist()
    return {
        "system": name,
        **{measure: found[name]["row"][measure] - found["floor"]["row"][measure] for measure in MEASURES},
        **{f"{measure}_ci95": ends[at] for at, measure in enumerate(MEASURES)},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in aligned columns."""
    cells = [
        [
            "system",
            "micro-F1 %",
            "95 % interval",
            "macro-F1 %",
            "95 % interval",
            "UAR %",
            "95 % interval",
            "utterances",
            "speakers",
            "folds",
        ]
    ]
    for row in rows:
        figures = [
            text for name in MEASURES for text in (f"{row[name]:.2f}", "[{:.2f}, {:.2f}]".format(*row[f"{name}_ci95"]))
        ]
        cells.append([row["system"], *figures, f"{row['utterances']:,}", f"{row['speakers']:,}", str(row["folds"])])
    return aligned(cells)


if __name__ == "__main__":
    run(main, Options)
