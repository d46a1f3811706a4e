r"""Tabulate the means of several score tables of score_enhancement.py in Markdown, one line each.

python local/tabulate_scores.py --scores exp/mini_crn/scores/none.tsv,exp/mini_crn/scores/ccr.tsv --out table.md
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cslib.config import run
from cslib.evaluation.enhanced_folders import Scores, measured_in_all
from cslib.evaluation.speech_quality import HEADLINE
from cslib.files import write_lines


@dataclass
class Options:
    scores: str  # tables of the same recordings, separated by commas; a line is named after its file
    out: Path | None = None  # Markdown file to write as well


def main(options: Options) -> None:
    paths = [Path(name) for name in options.scores.split(",")]
    distinct = len({path.stem for path in paths}) == len(paths)
    scores = {path.stem if distinct else str(path): Scores.read(path) for path in paths}
    whole = measured_in_all(scores)
    lines = [
        "| system | " + " | ".join(HEADLINE) + " | PESQ, 95 % | recordings | failed |",
        "|---" * (len(HEADLINE) + 4) + "|",
    ]
    lines += [row(name, found.only(whole), len(found.failures())) for name, found in scores.items()]
    print("\n".join(lines))
    if options.out:
        write_lines(options.out, lines)


def row(name: str, scores: Scores, failed: int) -> str:
    """A line of the table: means over the recordings that have all measures in every table."""
    means, (low, high) = scores.means(), scores.intervals()["pesq"]
    return (
        f"| {name} | "
        + " | ".join(f"{means[measure]:.3f}" for measure in HEADLINE)
        + f" | [{low:.3f}, {high:.3f}] | {len(scores.names):,} | {failed} |"
    )


if __name__ == "__main__":
    run(main, Options)
