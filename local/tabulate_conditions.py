r"""Tabulate equal error rates of adverse trials by SNR and interferers, with and without enhancement.

    bash egs/voxceleb/run.sh --exp exp/mini_csc --enhance none=A/final.pt,ccr=B/final.pt
    python local/tabulate_conditions.py --runs exp/mini_csc --out table.md

Prints a Markdown table for each system: a line for every group of trials, a column for the unprocessed recordings and
one for each network that enhanced them. Rates are means over the runs, one per seed. Beside them stands the difference
from the unprocessed recordings, or from those enhanced by the network --base, with its 95 % interval over seeds and
test speakers. The SNR of a trial is the lower one of its two recordings; other speakers interfere in none, one or both.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cslib.config import UserError, run
from cslib.data.trials import Trials, read_trials
from cslib.evaluation.bootstrap import drawn_eers, over_seeds
from cslib.evaluation.run_folders import scored_path
from cslib.evaluation.score_files import read_scores
from cslib.evaluation.speakers import read_speakers
from cslib.files import progress, read_json, write_lines

EDGES = (0.0, 5.0, 10.0, 15.0)  # dB
INTERFERERS = ("none", "in one", "in both")
ADVERSE = "adverse"  # the list of unprocessed recordings; adverse_NAME is that of recordings enhanced by NAME


@dataclass
class Options:
    runs: str  # run folders of egs/voxceleb, one per seed, separated by commas
    systems: str = ""  # csc, dino, round1, final, ..., separated by commas (default: all that the runs have)
    enhancers: str = ""  # names of --enhance, separated by commas, as columns (default: all that the runs have)
    base: str = ""  # enhancer to compare the others with (default: the unprocessed recordings)
    out: Path | None = None  # Markdown file to write as well


def main(options: Options) -> None:
    runs = [Path(folder) for folder in options.runs.split(",")]
    found = scored_lists(runs[0])
    systems = options.systems.split(",") if options.systems else list(found)
    absent = [system for system in systems if system not in found]
    if absent:
        raise UserError(f"--systems: {runs[0]} has no scores of {absent[0]}; it has those of {', '.join(found)}")
    lists, base = columns(runs[0], found[systems[0]], options)
    lines: list[str] = []
    for system in systems:
        lines += [f"**{system}**", "", *table(runs, system, lists, base), ""]
    print("\n".join(lines[:-1]))
    if options.out:
        write_lines(options.out, lines[:-1])


def scored_lists(folder: Path) -> dict[str, list[str]]:
    """{system: its adverse lists} of a run; the list of unprocessed recordings is first."""
    results = read_json(folder / "results.json")
    found: dict[str, list[str]] = {}
    for row in results["rows"]:
        if row.get("scoring") == "cosine" and row["trials"].split("_")[0] == ADVERSE:
            found.setdefault(row["system"], []).append(row["trials"])
    if not found or any(ADVERSE not in lists for lists in found.values()):
        raise UserError(f"{folder}: has no scores of adverse trials; give folders of egs/voxceleb")
    return {system: [ADVERSE, *(name for name in lists if name != ADVERSE)] for system, lists in found.items()}


def columns(folder: Path, found: list[str], options: Options) -> tuple[list[str], str]:
    """The lists to show, that of unprocessed recordings first, and the list to compare the others with.

    Raises UserError when the run has no such list.
    """
    names = (
        options.enhancers.split(",") if options.enhancers else [name.removeprefix(f"{ADVERSE}_") for name in found[1:]]
    )
    for option, wanted in (("--enhancers", names), ("--base", [options.base] if options.base else [])):
        for name in wanted:
            if f"{ADVERSE}_{name}" not in found:
                raise UserError(f"{option}: {folder} has no trials that {name} enhanced; give a name of its --enhance")
    if options.base and options.base not in names:
        raise UserError(f"--base: {options.base} is not among --enhancers; add it there")
    base = f"{ADVERSE}_{options.base}" if options.base else ADVERSE
    return [ADVERSE, *(f"{ADVERSE}_{name}" for name in names)], base


def table(runs: list[Path], system: str, lists: list[str], base: str) -> list[str]:
    """Lines of Markdown."""
    source = Path(_scored(runs[0], system, ADVERSE)["trial_list"])
    trials = read_trials(source)
    speakers = read_speakers(source.parents[1] / "speakers.tsv", trials.ids)
    pairs = speakers[trials.enrol_index], speakers[trials.test_index]
    scores = {name: [_scores(folder, system, name, trials) for folder in runs] for name in lists}
    lines = [
        "| trials | targets | non-targets | unprocessed | "
        + " | ".join(name.removeprefix(f"{ADVERSE}_") for name in lists[1:])
        + " |",
        "|---" * (3 + len(lists)) + "|",
    ]
    for group, chosen in progress(trial_groups(trials, source.parents[1] / "conditions.tsv").items(), system):
        targets = trials.targets[chosen]
        cells = [group, f"{targets.sum():,}", f"{(~targets).sum():,}"]
        if targets.all() or not targets.any():  # with a single class, no error rate is defined
            cells += len(lists) * ["-"]
        else:
            drawn = {
                name: np.stack(
                    [drawn_eers(values[chosen], targets, *(side[chosen] for side in pairs)) for values in of_runs]
                )
                for name, of_runs in scores.items()
            }
            cells += [
                f"{values[:, 0].mean():.2f}" + ("" if name == base else _difference(values, drawn[base]))
                for name, values in drawn.items()
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _difference(drawn: np.ndarray, base: np.ndarray) -> str:
    value, low, high = over_seeds(drawn - base)
    return f" ({value:+.2f} [{low:+.2f}, {high:+.2f}])"


def _scored(folder: Path, system: str, name: str) -> dict:
    return read_json(scored_path(folder, system, name))


def _scores(folder: Path, system: str, name: str, trials: Trials) -> np.ndarray:
    """Scores float [n] of these trials. Raises UserError when the run was scored on others."""
    return read_scores(folder / "scores" / _scored(folder, system, name)["score_file"], trials)


def trial_groups(trials: Trials, conditions: Path) -> dict[str, np.ndarray]:
    """{group: bool [n], which trials it has}. Raises UserError when a recording has no conditions."""
    try:
        with open(conditions, encoding="utf-8", newline="") as file:
            known = {
                row["utterance"]: (float(row["snr"]), row["interferer"] != "-")
                for row in csv.DictReader(file, delimiter="\t")
            }
        snr, interfered = np.array([known[name] for name in trials.ids]).T
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{conditions}: not the conditions of these trials ({error}); restore the conditions.tsv of their set"
        ) from None
    worse = np.minimum(snr[trials.enrol_index], snr[trials.test_index])
    count = interfered[trials.enrol_index] + interfered[trials.test_index]
    groups = {"all": np.ones(len(trials), bool)}
    for low, high in zip(EDGES, EDGES[1:], strict=False):
        last = high == EDGES[-1]
        groups[f"SNR {low:g} to {high:g} dB"] = (worse >= low) & ((worse <= high) if last else (worse < high))
    return groups | {f"interferer {name}": count == number for number, name in enumerate(INTERFERERS)}


if __name__ == "__main__":
    run(main, Options)
