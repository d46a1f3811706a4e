r"""Several tables of score_enhancement.py as one in Markdown, a line for each.

python local/tabulate_scores.py --scores exp/mini_crn_weights/cr_1.tsv,exp/mini_crn_weights/cr_2.tsv --out table.md
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
    scores: str  # tables of the same recordings, with commas between; each is called after its file, or path
    out: Path | None = None  # Markdown file; it is printed without


def main(options: Options) -> None:
    paths = [Path(name) for name in options.scores.split(",")]
    unlike = len({path.stem for path in paths}) == len(paths)
    scores = {path.stem if unlike else str(path): Scores.read(path) for path in paths}
    whole = measured_in_all(scores)
    lines = [
        "| of | " + " | ".join(HEADLINE) + " | PESQ, 95 % | recordings | failed |",
        "|---" * (len(HEADLINE) + 4) + "|",
    ]
    lines += [row(name, found.only(whole), len(found.failures())) for name, found in scores.items()]
    print("\n".join(lines))
    if options.out:
        write_lines(options.out, lines)


def row(name: str, scores: Scores, failed: int) -> str:
    """Means over the recordings, which have all measures in every table."""
    means, (low, high) = scores.means(), scores.intervals()["pesq"]
    return (
        f"| {name} | "
        + " | ".join(f"{means[measure]:.3f}" for measure in HEADLINE)
        + f" | [{low:.3f}, {high:.3f}] | {len(scores.names):,} | {failed} |"
    )


if __name__ == "__main__":
    run(main, Options)
