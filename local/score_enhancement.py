r"""Score enhanced recordings beside the clean ones, and print the mean of every measure as one line of JSON.

    python local/score_enhancement.py --clean data/voicebank/test/clean --enhanced exp/ccr/enhanced \
        --out exp/ccr/scores.tsv

Files are paired by name: 16 kHz mono, as long as each other. `<measure>_ci95` is the 95 % interval of the mean over
recordings. A file for which a measure cannot be computed is named on standard error and in the table, with the
reason; it is counted in `failed`, and in no mean.

csig_doubly_scaled, cbak_doubly_scaled and covl_doubly_scaled are not the composite measures but what widespread
scripts print in their place, 0.1 or 0.2 too much; they compare with tables made so, and with nothing else.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from cslib.config import UserError, run
from cslib.evaluation.enhanced_folders import score_folders
from cslib.evaluation.speech_quality import HEADLINE, MEASURES
from cslib.files import warn

NEAR = 0.01  # of what others found: they print two digits


@dataclass
class Options:
    clean: Path  # folder of clean recordings
    enhanced: Path  # folder of enhanced recordings, of the same names; noisy ones give the floor to beat
    out: Path | None = None  # table of all measures of every file, with tabs between its columns
    expected: str = ""  # means that others found for these very recordings, as pesq=1.97,stoi=0.92; others are told
    nj: int = os.cpu_count() or 1  # processes; the result does not depend on it


def main(options: Options) -> None:
    if options.nj < 1:
        raise UserError(f"--nj {options.nj}: give at least one process")
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
        if not abs(means[name] - wanted) < NEAR:  # nor where there is no mean
            warn(
                f"{options.enhanced}: {name} is {means[name]:.3f}, and others found {wanted:g} for these recordings; "
                "look at how they were resampled and paired before anything is trained on them"
            )


def expected_means(text: str) -> dict[str, float]:
    """{measure: mean} of "pesq=1.97,stoi=0.92". Raises UserError for anything else."""
    try:
        found = {name: float(value) for name, value in (part.split("=") for part in text.split(",") if part)}
    except ValueError:
        raise UserError(f"--expected {text}: write it as pesq=1.97,stoi=0.92") from None
    if unknown := set(found) - set(MEASURES):
        raise UserError(
            f"--expected: there is no measure {', '.join(sorted(unknown))}; there are: {', '.join(MEASURES)}"
        )
    return found


if __name__ == "__main__":
    run(main, Options)
