r"""Tabulate enhancement runs of several seeds and networks in Markdown: measures by system, and gains between systems.

    python local/tabulate_enhancement.py --runs exp/mini_crn_1,exp/mini_crn_2,exp/mini_crn_3 --out table.md

A gain is the mean over recordings and seeds of the difference between two systems of the same run. Its 95 % interval,
by a paired bootstrap over recordings, covers the choice of recordings; the gains of the single seeds beside it show the
effect of the training seed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cslib.config import UserError, run
from cslib.evaluation.enhanced_folders import Scores, resampled_means
from cslib.evaluation.speech_quality import HEADLINE, MEASURES
from cslib.files import read_json, write_lines

PAIRS = (
    ("positive", "none"),
    ("cr", "none"),
    ("ccr", "none"),
    ("cr", "positive"),
    ("ccr", "cr"),
    ("ccr", "cr_matched"),
    ("ccr", "fixed"),
    ("ccr", "hard_only"),
    ("cr_matched", "cr"),
    ("literal", "none"),
)
GAINS = ("pesq", "si_sdr")


@dataclass
class Options:
    runs: str  # run folders of egs/voicebank, separated by commas
    out: Path | None = None  # Markdown file to write as well


def main(options: Options) -> None:
    runs = {Path(name): read_json(Path(name) / "results.json") for name in options.runs.split(",")}
    if any("over_none" not in results for results in runs.values()):
        raise UserError("--runs: give folders of egs/voicebank, each with a results.json")
    groups = groups_of_seeds(runs)
    lines = [*measures_table(runs, groups), "", *gains_table(groups)]
    print("\n".join(lines))
    if options.out:
        write_lines(options.out, lines)


def groups_of_seeds(runs: dict[Path, dict[str, Any]]) -> dict[str, list[Path]]:
    """{name: runs that differ only in their seeds}; the name is the network and whatever else differs between groups.

    Raises UserError when two runs of a group have the same seed.
    """
    parts = {
        folder: (
            results["method"],
            "mixed anew" if results.get("mixing") == "anew" else "",
            results.get("space", ""),
            _length(results),
        )
        for folder, results in runs.items()
    }
    telling = [len(set(values)) > 1 or number < 2 for number, values in enumerate(zip(*parts.values(), strict=True))]
    groups: dict[str, list[Path]] = {}
    for folder, values in parts.items():
        name = ", ".join(value for value, tells in zip(values, telling, strict=True) if tells and value)
        for other in groups.setdefault(name, []):
            if runs[other].get("seed") == runs[folder].get("seed") is not None:
                raise UserError(
                    f"--runs: {other} and {folder} are both {name} of seed {runs[folder]['seed']}; give one of them"
                )
        groups[name].append(folder)
    return groups


def _length(results: dict[str, Any]) -> str:
    return next((f"{row['steps']:,} steps" for row in results["rows"] if "steps" in row), "")


def measures_table(runs: dict[Path, dict[str, Any]], groups: dict[str, list[Path]]) -> list[str]:
    """A line for each group of runs and each system: means over the seeds, and the PESQ of each seed."""
    lines = [
        "| network | system | " + " | ".join(HEADLINE) + " | PESQ of each seed |",
        "|---" * (3 + len(HEADLINE)) + "|",
    ]
    for name, folders in groups.items():
        rows = [row for folder in folders for row in runs[folder]["rows"]]
        for system in dict.fromkeys(row["system"] for row in rows):
            mine = [row for row in rows if row["system"] == system]
            means = (f"{np.mean([row[measure] for row in mine]):.3f}" for measure in HEADLINE)
            seeds = ", ".join(f"{row['pesq']:.3f} ({row['seed']})" for row in mine)
            lines.append(f"| {name} | {system} | " + " | ".join(means) + f" | {seeds} |")
    return lines


def gains_table(groups: dict[str, list[Path]]) -> list[str]:
    """A line for each group of runs and each pair of systems that it has."""
    lines = [
        "| network | gain | " + " | ".join(f"{name}, mean [95 %] | {name} of each seed" for name in GAINS) + " |",
        "|---" * (2 + 2 * len(GAINS)) + "|",
    ]
    for name, folders in groups.items():
        for better, base in PAIRS:
            tables = [[path / "scores" / f"{system}.tsv" for system in (better, base)] for path in folders]
            there = [all(path.exists() for path in pair) for pair in tables]
            if any(there) and not all(there):
                print(f"{name}: not all runs have {better} and {base}; this gain is left out", file=sys.stderr)
            elif all(there):
                if len({tuple(Scores.read(pair[0]).names) for pair in tables}) > 1:
                    raise UserError(f"--runs: those of {name} were tested on different sets; tabulate them separately")
                gains = [gains_of(*pair) for pair in tables]
                cells = (cell for column in range(len(GAINS)) for cell in _cells(np.stack(gains)[:, :, column]))
                lines.append(f"| {name} | {better} over {base} | " + " | ".join(cells) + " |")
    return lines


def gains_of(better: Path, base: Path) -> np.ndarray:
    """Differences [recordings, GAINS]; NaN where either system lacks a measure."""
    ours, theirs = Scores.read(better), Scores.read(base)
    if ours.names != theirs.names:
        raise UserError(f"{better} and {base} were scored on different recordings; score them again")
    return (ours.values - theirs.values)[:, [MEASURES.index(name) for name in GAINS]]


def _cells(gains: np.ndarray) -> tuple[str, str]:
    """The mean of gains [seeds, recordings] with its interval, and the mean of each seed."""
    whole = gains[:, np.isfinite(gains).all(axis=0)]
    if not whole.size:
        return "-", "-"
    recordings = whole.mean(axis=0)
    low, high = np.quantile(resampled_means(recordings[:, None]), [0.025, 0.975])
    return (
        f"{recordings.mean():+.3f} [{low:+.3f}, {high:+.3f}]",
        ", ".join(f"{mean:+.3f}" for mean in whole.mean(axis=1)),
    )


if __name__ == "__main__":
    run(main, Options)
