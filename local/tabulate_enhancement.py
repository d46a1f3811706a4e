r"""Enhancement runs of several seeds and networks in two Markdown tables: measures by system, and who gains over whom.

    python local/tabulate_enhancement.py --runs exp/mini_crn_1,exp/mini_crn_2,exp/mini_crn_3 --out table.md

A gain is the mean over recordings and seeds of the difference of two systems that were trained alike; its interval is
a bootstrap over recordings, paired. It tells how far other recordings would move the gain; how far another seed
would is told by the gains of the single seeds beside it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cslib.config import UserError, run
from cslib.enhancement.folders import REPLICATES, Scores
from cslib.enhancement.measures import HEADLINE, MEASURES
from cslib.files import read_json, write_lines

PAIRS = (("positive", "none"), ("cr", "none"), ("ccr", "none"), ("cr", "positive"), ("ccr", "cr"),
         ("ccr", "cr_matched"), ("ccr", "fixed"), ("ccr", "hard_only"), ("cr_matched", "cr"), ("literal", "none"))
GAINS = ("pesq", "si_sdr")


@dataclass
class Options:
    runs: str  # run folders of egs/voicebank, with commas between
    out: Path | None = None  # Markdown file; it is printed without


def main(options: Options) -> None:
    runs = {Path(name): read_json(Path(name) / "results.json") for name in options.runs.split(",")}
    if any("over_none" not in results for results in runs.values()):
        raise UserError("--runs: give folders of egs/voicebank, with its results.json")
    lines = [*measures_table(list(runs.values())), "", *gains_table(runs)]
    print("\n".join(lines))
    if options.out:
        write_lines(options.out, lines)


def network_of(results: dict[str, Any]) -> str:
    """What runs have to share to be averaged."""
    return results["method"] + (", mixed anew" if results.get("mixing") == "anew" else "")


def measures_table(runs: list[dict[str, Any]]) -> list[str]:
    """A line for each network and system: means over the seeds, and the PESQ of each seed."""
    lines = ["| network | system | " + " | ".join(HEADLINE) + " | PESQ of each seed |",
             "|---" * (3 + len(HEADLINE)) + "|"]
    rows = [(network_of(results), row) for results in runs for row in results["rows"]]
    for network, system in dict.fromkeys((network, row["system"]) for network, row in rows):
        alike = [row for its, row in rows if (its, row["system"]) == (network, system)]
        means = (f"{np.mean([row[name] for row in alike]):.3f}" for name in HEADLINE)
        seeds = ", ".join(f"{row['pesq']:.3f} ({row['seed']})" for row in alike)
        lines.append(f"| {network} | {system} | " + " | ".join(means) + f" | {seeds} |")
    return lines


def gains_table(runs: dict[Path, dict[str, Any]]) -> list[str]:
    """A line for each network and pair of systems that its runs have."""
    lines = ["| network | gain | " + " | ".join(f"{name}, mean [95 %] | {name} of each seed" for name in GAINS) + " |",
             "|---" * (2 + 2 * len(GAINS)) + "|"]
    for network in dict.fromkeys(map(network_of, runs.values())):
        folders = [path for path, results in runs.items() if network_of(results) == network]
        for better, base in PAIRS:
            tables = [[path / "scores" / f"{name}.tsv" for name in (better, base)] for path in folders]
            there = [path.exists() for pair in tables for path in pair]
            if any(there) and not all(there):
                print(f"{network}: not all runs have {better} and {base}; that gain is left out", file=sys.stderr)
            elif all(there):
                if len({tuple(Scores.read(pair[0]).names) for pair in tables}) > 1:
                    raise UserError(f"--runs: those of {network} were tested on different sets; tabulate them apart")
                gains = [gains_of(*pair) for pair in tables]
                cells = (cell for column in range(len(GAINS)) for cell in _cells(np.stack(gains)[:, :, column]))
                lines.append(f"| {network} | {better} over {base} | " + " | ".join(cells) + " |")
    return lines


def gains_of(better: Path, base: Path) -> np.ndarray:
    """[recordings, GAINS]; NaN where either lacks a measure."""
    ours, theirs = Scores.read(better), Scores.read(base)
    if ours.names != theirs.names:
        raise UserError(f"{better} and {base} are of other recordings; score them again")
    return (ours.values - theirs.values)[:, [MEASURES.index(name) for name in GAINS]]


def _cells(gains: np.ndarray) -> tuple[str, str]:
    """Of gains [seeds, recordings]: their mean with its interval, and the mean of each seed."""
    whole = gains[:, np.isfinite(gains).all(axis=0)]
    if not whole.size:
        return "-", "-"
    recordings = whole.mean(axis=0)
    drawn = np.random.default_rng(0).integers(len(recordings), size=(REPLICATES, len(recordings)))
    low, high = np.quantile(recordings[drawn].mean(axis=1), [0.025, 0.975])
    return (f"{recordings.mean():+.3f} [{low:+.3f}, {high:+.3f}]",
            ", ".join(f"{mean:+.3f}" for mean in whole.mean(axis=1)))


if __name__ == "__main__":
    run(main, Options)
