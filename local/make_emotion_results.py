r"""Collect the classifications of one run: results.json, a table and a plot of confusion matrices.

    python local/make_emotion_results.py --exp exp/mini_emotion --corpus mini --seed 1 \
        --seconds exp/mini_emotion/seconds.json

Reads <exp>/scores/<system>.{json,tsv}, which local/classify_emotions.py wrote; writes <exp>/results.json and
<exp>/confusion.png. A gain over the floor is computed on the same utterances, and its 95 % interval with the same
bootstrap draws of speakers. The interval covers the choice of test speakers, not that of the training seed.
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
from cslib.evaluation.run_folders import chosen, provenance
from cslib.files import aligned, read_json, write_json

ORDER = ("floor", "csc", "dino", "finetuned")  # of the systems; others follow by name
COLUMNS = ("utterance", "speaker", "class", "answer")


@dataclass
class Options:
    exp: Path  # run folder
    corpus: str  # mini, iemocap, cremad, msp_podcast or folder
    seed: int  # of the fine-tuning
    recipe: str = "emotion"  # folder of the recipe under egs/
    method: str = "linear"  # the classifier
    systems: str = ""  # systems to include, separated by commas (default: all that were classified)
    seconds: Path | None = None  # JSON {part of the run: seconds it took}
    commits: Path | None = None  # JSON {part of the run: commit of the code that made it}


def main(options: Options) -> None:
    scores = options.exp / "scores"
    known = [path.stem for path in scores.glob("*.json")]
    if not known:
        raise UserError(f"{scores}: has no scores; run local/classify_emotions.py first")
    systems = sorted(
        chosen(options.systems, known, "--systems", scores),
        key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name),
    )
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
            **provenance(options.seconds, options.commits),
            "rows": rows,
            "over_floor": gains,
            "confusion": {name: {"classes": one["classes"], "counts": one["confusion"]} for name, one in found.items()},
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
    """{column: values [n]} of a table that local/classify_emotions.py wrote. Raises UserError for any other file."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
            return {name: np.array([line[name] for line in lines]) for name in COLUMNS}
    except (OSError, KeyError):
        raise UserError(f"{path}: not a table of answers; run local/classify_emotions.py again") from None


def over_floor(
    name: str, found: dict[str, dict[str, Any]], answers: dict[str, dict[str, np.ndarray]]
) -> dict[str, Any]:
    """Gain of a system over the floor in percentage points, and its 95 % interval.

    Raises UserError when the two classified different utterances.
    """
    own, floor = answers[name], answers["floor"]
    if any(not np.array_equal(own[column], floor[column]) for column in ("utterance", "speaker", "class")):
        raise UserError(
            f"{name} and floor classified different utterances; run local/classify_emotions.py again for both"
        )
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
