"""Put several runs (seeds, methods) into one markdown table, for RESULTS.md.

    python local/tabulate_runs.py --runs exp/mini_csc_1,exp/mini_csc_2,exp/mini_csc_3 --out table.md
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from cslib.config import run
from cslib.files import read_json, write_lines

KEYS = ("corpus", "method", "system", "trials", "scoring")


@dataclass
class Options:
    runs: str  # run folders, each with a results.json, with commas between
    out: Path  # markdown file


def main(options: Options) -> None:
    runs = [read_json(Path(folder) / "results.json") for folder in options.runs.split(",")]
    lines = table(runs)
    write_lines(options.out, lines)
    print("\n".join(lines))


def table(runs: list[dict[str, Any]]) -> list[str]:
    """A line for every system, trial list and scoring: means over the runs that have it, and each EER."""
    groups = defaultdict(list)
    for one in runs:
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


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    run(main, Options)
