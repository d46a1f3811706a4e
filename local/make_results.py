r"""Gather what score_trials.py found for one run: results.json, a table, DET curves and score histograms.

    python local/make_results.py --exp exp/mini_csc --recipe voxceleb --corpus mini --method csc --seed 0 \
        --seconds exp/mini_csc/seconds.json

Reads <exp>/scores/*.json; writes <exp>/results.json, <exp>/det.png and <exp>/histograms.png.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cslib.config import UserError, run
from cslib.data.trials import read_trials
from cslib.evaluation.plots import Panel, plot_det, plot_histograms
from cslib.evaluation.score_files import read_scores
from cslib.files import read_json, write_json
from cslib.provenance import commit

SCORINGS = ("cosine", "mean", "asnorm", "plda")


@dataclass
class Options:
    exp: Path  # run folder
    recipe: str  # folder of the recipe under egs/
    corpus: str  # mini, folder, voxceleb, ...
    method: str  # csc, dino, ...
    seed: int  # of the training
    seconds: Path | None = None  # JSON {stage: seconds}; none is known without it
    plot_scoring: str = "cosine"  # the scoring that is drawn


def main(options: Options) -> None:
    found = sorted((read_json(path) for path in (options.exp / "scores").glob("*.json")), key=_order)
    if not found:
        raise UserError(f"{options.exp}/scores: holds no scores; run local/score_trials.py first")
    rows = [one["row"] for one in found]
    write_json(
        options.exp / "results.json",
        {
            "recipe": options.recipe,
            "corpus": options.corpus,
            "method": options.method,
            "seed": options.seed,
            "commit": commit(),
            "rows": rows,
            "seconds": read_json(options.seconds) if options.seconds and options.seconds.exists() else {},
        },
    )
    print(table(rows))
    panels = [_panel(options.exp, one) for one in found if one["row"]["scoring"] == options.plot_scoring]
    if not panels:
        raise UserError(
            f"{options.exp}/scores: nothing was scored with {options.plot_scoring!r}; there is "
            f"{', '.join(sorted({row['scoring'] for row in rows}))}"
        )
    title = f"{options.corpus}, {options.method}, {options.plot_scoring} scores"
    plot_det(panels, options.exp / "det.png", title)
    plot_histograms(panels, options.exp / "histograms.png", title)


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
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        [
            cell.ljust(width) if at < 3 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in cells
    ]
    return "\n".join("  ".join(line) for line in lines)


def _panel(exp: Path, one: dict[str, Any]) -> Panel:
    trials = read_trials(one["trial_list"])
    scores = read_scores(exp / "scores" / one["score_file"], trials)
    return Panel(one["row"]["system"], one["row"]["trials"], scores, trials.targets)


def _order(one: dict[str, Any]) -> tuple:
    """Trial list by trial list, the floor first, the final system last, round2 before round10."""
    row = one["row"]
    digits = [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", row["system"])]
    return (row["trials"], row["system"] != "floor", row["system"] == "final", digits, SCORINGS.index(row["scoring"]))


if __name__ == "__main__":
    run(main, Options)
