"""Tabulate the runs of an ablation study in Markdown: the EER of every arm, and its difference from the first arm.

    python local/tabulate_ablations.py --out exp/ablations/table.md \\
        --runs exp/ablations/attention_1,exp/ablations/mean_1,exp/ablations/attention_2,exp/ablations/mean_2

The arm of a run is the `method` of its results.json. All arms must have the same seeds and trial lists.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np

from cslib.config import UserError, load_yaml, run
from cslib.evaluation import run_folders
from cslib.evaluation.bootstrap import over_seeds
from cslib.evaluation.run_folders import drawn_rates, scored_path
from cslib.files import read_json, write_lines

# Quantities that trainings log, and that diagnose_clusters.py computes of labels; those that a run has become columns.
DIAGNOSTICS = {
    "si_snr_improvement": "SI-SNR improvement, dB",
    "mi_bound": "MI bound, nats",
    "nearest_identity": "nearest identity",
    "agreement": "agreement of crops",
    "retrieval": "retrieval",
    "effective_rank": "effective rank",
    "accuracy": "accuracy on its labels",
    "kept": "labels kept",
}
LABELS = {"clusters": "clusters", "nmi": "NMI", "purity": "purity"}


@dataclass
class Options:
    runs: str  # run folders, separated by commas; every arm is compared with that of the first run
    out: Path  # Markdown file to write


def main(options: Options) -> None:
    arms = arms_of([Path(folder) for folder in options.runs.split(",")])
    lines = [*table(arms), "", *notes(arms)]
    write_lines(options.out, lines)
    print("\n".join(lines))


def arms_of(folders: list[Path]) -> dict[str, dict[int, Path]]:
    """{arm: {seed: run folder}}. Raises UserError when two arms have different seeds."""
    arms: dict[str, dict[int, Path]] = defaultdict(dict)
    for folder in folders:
        results = read_json(folder / "results.json")
        arms[results["method"]][results["seed"]] = folder
    reference, *others = arms
    for arm in others:
        if arms[arm].keys() != arms[reference].keys():
            raise UserError(
                f"--runs: {arm} has the seeds {_listed(arms[arm])}, and {reference} "
                f"{_listed(arms[reference])}; give runs of the same seeds for every arm"
            )
    return {arm: dict(sorted(runs.items())) for arm, runs in arms.items()}  # sorted, so that arms pair by seed


def table(arms: dict[str, dict[int, Path]]) -> list[str]:
    """Lines of Markdown, one for every arm."""
    reference, *_ = arms
    first_run = next(iter(arms[reference].values()))
    lists = [
        row["trials"]
        for row in read_json(first_run / "results.json")["rows"]
        if row["system"] == reference and row["scoring"] == "cosine"
    ]
    columns = [
        ["arm", *(f"**{arm}: with true speaker labels**" if is_supervised(runs) else arm for arm, runs in arms.items())]
    ]
    for trials in lists:
        columns += [rates(arms, trials), differences(arms, trials)]
    columns += [diagnostics(arms, name) for name in DIAGNOSTICS] + [of_labels(arms, name) for name in LABELS]
    columns = [column for column in columns if any(column[1:]) or not column[0]]
    header, *lines = zip(*columns, strict=True)
    return [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *lines)]


def rates(arms: dict[str, dict[int, Path]], trials: str) -> list[str]:
    """Column: mean EER over the seeds, and the EER of each seed."""
    cells = [f"EER % {trials} (each seed)"]
    for arm, runs in arms.items():
        found = [read_json(scored_path(run, arm, trials))["row"]["eer"] for run in runs.values()]
        cells.append(f"{mean(found):.2f} ({', '.join(f'{rate:.2f}' for rate in found)})")
    return cells


def differences(arms: dict[str, dict[int, Path]], trials: str) -> list[str]:
    """Column: difference in EER from the first arm, and its 95 % interval over seeds and test speakers."""
    reference, *others = arms
    drawn = {
        arm: np.stack([drawn_rates(scored_path(run, arm, trials)) for run in runs.values()])
        for arm, runs in arms.items()
    }
    cells = [f"minus {reference}, {trials}", ""]
    for arm in others:
        value, low, high = over_seeds(drawn[arm] - drawn[reference])  # paired draws
        cells.append(f"{value:+.2f} [{low:+.2f}, {high:+.2f}]")
    return cells


def diagnostics(arms: dict[str, dict[int, Path]], name: str) -> list[str]:
    """Column: the last logged value, mean over the seeds; empty where it is not logged."""
    return [
        DIAGNOSTICS[name],
        *(_mean([_last_line(run / "log.jsonl").get(name) for run in runs.values()]) for runs in arms.values()),
    ]


def of_labels(arms: dict[str, dict[int, Path]], name: str) -> list[str]:
    """Column: a diagnostic of the pseudo-labels, mean over the seeds; empty where there are none."""
    files = {arm: [run / "diagnosis.json" for run in runs.values()] for arm, runs in arms.items()}
    return [
        LABELS[name],
        *(_mean([read_json(file)[name] if file.exists() else None for file in of_arm]) for of_arm in files.values()),
    ]


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{mean(known):.2f}" if len(known) == len(values) else ""


def notes(arms: dict[str, dict[int, Path]]) -> list[str]:
    reference, *_ = arms
    lines = [
        f"EER by cosine, mean over the seeds {_listed(arms[reference])}. Differences are in percentage",
        "points, positive is worse; in brackets their 95 % interval over seeds and test speakers, resampled",
        f"{run_folders.DRAWS} times, paired between arms. The last columns are means over the last logged steps of",
        "training. The MI bound is at most log N for N identities: compare it, and the nearest identity,",
        "only between arms of the same N.",
    ]
    labelled = [arm for arm, runs in arms.items() if is_supervised(runs)]
    if labelled:
        lines += ["", f"**Trained with true speaker labels: {', '.join(labelled)}.** All other arms are label-free."]
    return lines


def is_supervised(runs: dict[int, Path]) -> bool:
    """Whether the runs trained on true speaker labels, according to their configs."""
    return any(load_yaml(folder / "config.yaml")["objective"].get("identity") == "speaker" for folder in runs.values())


def _last_line(path: Path) -> dict[str, float]:
    return json.loads(path.read_text(encoding="utf-8").splitlines()[-1])


def _listed(runs: dict[int, Path]) -> str:
    return ", ".join(map(str, sorted(runs)))


if __name__ == "__main__":
    run(main, Options)
