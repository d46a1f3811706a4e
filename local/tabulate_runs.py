"""Tabulate several runs, of different seeds or methods, in Markdown.

python local/tabulate_runs.py --runs exp/mini_csc_1,exp/mini_csc_2,exp/mini_csc_3 --out table.md
python local/tabulate_runs.py --layout starts --runs exp/mini_csc_1,exp/mini_dino_1 --out starts.md
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from cslib.config import require, run
from cslib.evaluation.bootstrap import over_seeds
from cslib.evaluation.run_folders import drawn_rates, scored_path
from cslib.files import read_json, write_lines

KEYS = ("corpus", "method", "system", "trials", "scoring")


@dataclass
class Options:
    runs: str  # run folders, each with a results.json, separated by commas
    out: Path  # Markdown file to write
    layout: str = "systems"  # systems: a line per system | starts: a line per method, a column per system


def main(options: Options) -> None:
    runs = {Path(folder): read_json(Path(folder) / "results.json") for folder in options.runs.split(",")}
    require(options.layout in LAYOUTS, "--layout", options.layout, " or ".join(LAYOUTS))
    lines = LAYOUTS[options.layout](runs)
    write_lines(options.out, lines)
    print("\n".join(lines))


def table(runs: dict[Path, dict[str, Any]]) -> list[str]:
    """A line for every system, trial list and scoring: means over the runs that have it, and the EER of each seed."""
    groups = defaultdict(list)
    for one in runs.values():
        for row in one["rows"]:
            groups[tuple({**one, **row}[key] for key in KEYS)].append((one["seed"], row))
    header = [*KEYS, "EER %, mean", "EER % of each seed", "minDCF(0.01), mean", "targets / non-targets"]
    lines = [[*key, *_cells(group)] for key, group in groups.items()]
    return [_line(cells) for cells in (header, ["---"] * len(header), *lines)]


def _cells(group: list[tuple[int, dict[str, Any]]]) -> list[str]:
    rows = [row for _, row in group]
    return [
        f"{mean(row['eer'] for row in rows):.2f}",
        ", ".join(f"{row['eer']:.2f} ({seed})" for seed, row in group),
        f"{mean(row['min_dcf_0.01'] for row in rows):.3f}",
        f"{rows[0]['targets']:,} / {rows[0]['nontargets']:,}",
    ]


def starts(runs: dict[Path, dict[str, Any]]) -> list[str]:
    """A line for every method, from which the rounds start, and trial list; a column for every system.

    Cells: EER by cosine, mean over the seeds, with its 95 % interval over seeds and test speakers.
    """
    scored: dict[tuple[str, str], dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for folder, one in runs.items():
        for row in one["rows"]:
            if row["scoring"] == "cosine" and (row["system"] != "floor" or one["method"] == "floor"):
                system = "start" if row["system"] == one["method"] else row["system"]
                scored[row["trials"], one["method"]][system].append(scored_path(folder, row["system"], row["trials"]))
    found = {system for of_method in scored.values() for system in of_method}
    systems = ["start", *sorted(found - {"start", "final"}), *({"final"} & found)]
    lines = [
        [trials, method, *(_mean_and_interval(of_method.get(system, [])) for system in systems)]
        for (trials, method), of_method in sorted(scored.items())
    ]
    header = ["trials", "start from", *systems]
    return [_line(cells) for cells in (header, ["---"] * len(header), *lines)]


def _mean_and_interval(scored: list[Path]) -> str:
    if not scored:
        return ""
    value, low, high = over_seeds(np.stack([drawn_rates(path) for path in scored]))
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


LAYOUTS = {"systems": table, "starts": starts}


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    run(main, Options)
