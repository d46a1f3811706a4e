r"""Score enhanced recordings against the clean ones and print the mean of every measure as one line of JSON.

    python local/score_enhancement.py --clean data/mini_pairs/test/clean \
        --enhanced exp/mini_crn/ccr/enhanced/test --out exp/mini_crn/scores/ccr.tsv

Files are paired by name; they are 16 kHz mono, both of a pair of the same length. `<measure>_ci95` is the 95 % interval
of the mean over recordings. A file for which a measure is undefined is named on standard error and in the table, with
the reason; it is counted in `failed` and left out of all means.

csig_doubly_scaled, cbak_doubly_scaled and covl_doubly_scaled are not the composite measures but what widespread scripts
report for them, 0.1 to 0.2 too high. Use them only for comparison with tables from such scripts.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from cslib.config import UserError, require, run
from cslib.evaluation.enhanced_folders import score_folders
from cslib.evaluation.speech_quality import HEADLINE, MEASURES
from cslib.files import warn

NEAR = 0.01  # accepted difference from --expected: published means have two digits


@dataclass
class Options:
    clean: Path  # folder of clean recordings
    enhanced: Path  # folder of enhanced recordings of the same names; or of the noisy ones, as a baseline
    out: Path | None = None  # tab-separated table to write, with all measures of every file
    expected: str = ""  # published means of these recordings, as pesq=1.97,stoi=0.92; warns of a deviation
    nj: int = os.cpu_count() or 1  # number of processes; the result does not depend on it


def main(options: Options) -> None:
    require(options.nj >= 1, "--nj", options.nj, "at least 1")
    expected = expected_means(options.expected)
    scores = score_folders(options.clean, options.enhanced, options.nj)
    if options.out:
        scores.write(options.out)
    failures = scores.failures()
    for name, reason in failures:
        print(f"{name}: failed ({reason})", file=sys.stderr)
    intervals = scores.intervals()
    intervals = {f"{name}_ci95": intervals[name] for name in HEADLINE}
    counts = {"files": len(scores.names), "failed": len(failures)}
    means = scores.means()
    print(json.dumps({**means, **intervals, **counts}))
    for name, wanted in expected.items():
        if not abs(means[name] - wanted) < NEAR:  # a mean of NaN deviates as well
            warn(
                f"{options.enhanced}: {name} is {means[name]:.3f}, but {wanted:g} was published for these recordings; "
                "check how they were resampled and paired before you train on them"
            )


def expected_means(text: str) -> dict[str, float]:
    """Parse "pesq=1.97,stoi=0.92" into {measure: mean}. Raises UserError for anything else."""
    try:
        found = {name: float(value) for name, value in (part.split("=") for part in text.split(",") if part)}
    except ValueError:
        raise UserError(f"--expected is {text}; it must be written as pesq=1.97,stoi=0.92") from None
    if unknown := set(found) - set(MEASURES):
        raise UserError(
            f"--expected: there is no measure {', '.join(sorted(unknown))}; the measures are {', '.join(MEASURES)}"
        )
    return found


if __name__ == "__main__":
    run(main, Options)
