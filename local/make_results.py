r"""Collect the scores of one run: results.json, a table, DET curves and score histograms.

    python local/make_results.py --exp exp/mini_csc --recipe voxceleb --corpus mini --method csc --seed 0 \
        --seconds exp/mini_csc/seconds.json

Reads <exp>/scores/*.json, which local/score_trials.py wrote; writes <exp>/results.json, <exp>/det.png and
<exp>/histograms.png. results.json has a row for every system, trial list and scoring in "rows". A run without test
trials has none; local/make_label_free_results.py writes its results.json.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cslib.config import UserError, run
from cslib.data.trials import read_trials
from cslib.evaluation.plots import Panel, plot_det, plot_histograms
from cslib.evaluation.run_folders import chosen, provenance
from cslib.evaluation.score_files import read_scores
from cslib.evaluation.scorings import place
from cslib.files import aligned, read_json, write_json


@dataclass
class Options:
    exp: Path  # run folder
    recipe: str  # folder of the recipe under egs/
    corpus: str  # mini, folder, voxceleb, ...
    method: str  # csc, dino, ...
    seed: int  # of the training
    systems: str = ""  # systems to include, separated by commas (default: all that were scored)
    trials: str = ""  # trial lists to include, separated by commas (default: all that were scored)
    scorings: str = ""  # scorings to include, separated by commas (default: all that were used)
    seconds: Path | None = None  # JSON {part of the run: seconds it took}
    commits: Path | None = None  # JSON {part of the run: commit of the code that made it}
    plot_scoring: str = "cosine"  # scoring to plot


def main(options: Options) -> None:
    found = read_scored(options.exp / "scores", options.systems, options.trials, options.scorings)
    rows = [one["row"] for one in found]
    write_json(
        options.exp / "results.json",
        {
            "recipe": options.recipe,
            "corpus": options.corpus,
            "method": options.method,
            "seed": options.seed,
            **provenance(options.seconds, options.commits),
            "rows": rows,
        },
    )
    print(table(rows))
    panels = [_panel(options.exp, one) for one in found if one["row"]["scoring"] == options.plot_scoring]
    if not panels:
        raise UserError(
            f"--plot-scoring is {options.plot_scoring}; {options.exp}/scores has only "
            f"{', '.join(sorted({row['scoring'] for row in rows}))}"
        )
    title = f"{options.corpus}, {options.method}, {options.plot_scoring} scores"
    plot_det(panels, options.exp / "det.png", title)
    plot_histograms(panels, options.exp / "histograms.png", title)


def read_scored(folder: Path, systems: str, trials: str, scorings: str = "") -> list[dict[str, Any]]:
    """What local/score_trials.py wrote of these systems, trial lists and scorings, in the order of the table.

    Raises UserError when there is none, or one that is asked for is missing.
    """
    found = sorted((read_json(path) for path in folder.glob("*.json")), key=_order)
    if not found:
        raise UserError(f"{folder}: has no scores; run local/score_trials.py first")
    of_systems = chosen(systems, (one["row"]["system"] for one in found), "--systems", folder)
    of_trials = chosen(trials, (one["row"]["trials"] for one in found), "--trials", folder)
    of_scorings = chosen(scorings, (one["row"]["scoring"] for one in found), "--scorings", folder)
    wanted = {"system": of_systems, "trials": of_trials, "scoring": of_scorings}
    kept = [one for one in found if all(one["row"][key] in names for key, names in wanted.items())]
    if not kept:
        raise UserError(f"{folder}: has no scores of {systems} on {trials}; run local/score_trials.py for them")
    return kept


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in aligned columns."""
    cells = [["system", "trials", "scoring", "EER %", "95 % interval", "minDCF", "targets", "non-targets"]]
    for row in rows:
        low, high = row["eer_ci95"]
        cells.append(
            [
                row["system"],
                row["trials"],
                row["scoring"],
                f"{row['eer']:.2f}",
                f"[{low:.2f}, {high:.2f}]",
                f"{row['min_dcf_0.01']:.3f}",
                f"{row['targets']:,}",
                f"{row['nontargets']:,}",
            ]
        )
    return aligned(cells, left=3)


def _panel(exp: Path, one: dict[str, Any]) -> Panel:
    trials = read_trials(one["trial_list"])
    scores = read_scores(exp / "scores" / one["score_file"], trials)
    return Panel(one["row"]["system"], one["row"]["trials"], scores, trials.targets)


def _order(one: dict[str, Any]) -> tuple:
    """Sort key: trial list by trial list, the floor first, the final system last, round2 before round10."""
    row = one["row"]
    digits = [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", row["system"])]
    return (row["trials"], row["system"] != "floor", row["system"] == "final", digits, place(row["scoring"]))


if __name__ == "__main__":
    run(main, Options)
