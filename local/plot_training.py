r"""Plot the learning curves of one or several runs: the loss, its parts and the diagnostics in log.jsonl.

    python local/plot_training.py --runs exp/mini_dino_1,exp/mini_dino_2 --out exp/curves \
        --reference egs/voxceleb/curves/mini_dino.json

Writes <out>.png, a panel per value, and <out>.json, the plotted numbers: at most --points per run and value. Error
rates that score_checkpoints.py has measured are included. Kept with a recipe, the JSON serves as --reference: its
curves are drawn in grey behind those of a run, to show whether the training proceeds as expected.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cslib.config import UserError, require, run
from cslib.files import read_json, write_lines, writing

NOT_PLOTTED = ("data_seconds", "compute_seconds", "items_per_second", "memory_gb")  # speed of the machine
COLUMNS = 4  # panels per row

Curves = dict[str, list[Any]]  # of one run: "step" and every value, lists of equal length; None for missing


@dataclass
class Options:
    runs: str  # run folders, each with a log.jsonl, separated by commas
    out: Path  # writes <out>.png and <out>.json
    reference: Path | None = None  # .json written by this script, drawn in grey behind the runs
    points: int = 200  # at most per curve; in longer logs, a point is the mean of several lines


def main(options: Options) -> None:
    require(options.points >= 1, "--points", options.points, "at least 1")
    folders = [Path(folder) for folder in options.runs.split(",")]
    curves = {
        name: thinned(read_run(folder), options.points) for name, folder in zip(names_of(folders), folders, strict=True)
    }
    reference = read_curves(options.reference) if options.reference else {}
    png, kept = (options.out.with_name(options.out.name + ending) for ending in (".png", ".json"))
    plot(curves, reference, png)
    write_curves(kept, curves)
    for name, values in curves.items():
        print(f"{name}: {len(values) - 1} curves of {len(values['step'])} points, up to step {values['step'][-1]:,}")
    print(f"{png}, {kept}")


def read_run(folder: Path) -> list[dict[str, float]]:
    """The log of a run, with the error rates of its kept encoders in the first line at or after their step."""
    lines, rates = read_log(folder / "log.jsonl"), folder / "error_rates.json"
    for step, values in (read_json(rates) if rates.exists() else {}).items():
        later = [line for line in lines if line["step"] >= int(step)]
        if later:
            later[0].update(values)
    return lines


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a log.jsonl; an incomplete last line of a running training is left out.

    Raises UserError when the file is absent or empty, and when a line is not of a training's log.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); train first, or give another run") from None
    lines = [_values(path, number, line) for number, line in enumerate(text, start=1) if line.endswith("\n")]
    if not lines:
        raise UserError(f"{path}: no line is logged yet; wait for the first one")
    return lines


def _values(path: Path, number: int, line: str) -> dict[str, float]:
    try:
        values = json.loads(line)
    except json.JSONDecodeError:
        values = None
    if not (isinstance(values, dict) and {"step", "loss"} <= values.keys()):
        raise UserError(f"{path}: line {number} is not from the log of a training; give the folder of a run")
    return values


def thinned(lines: list[dict[str, float]], points: int) -> Curves:
    """At most `points` points per value, with five digits: means over runs of consecutive lines of nearly equal length.

    The step is the last one of each run of lines, as a line itself is a mean over the steps before it.
    """
    names = dict.fromkeys(name for line in lines for name in line if name not in (*NOT_PLOTTED, "step"))
    parts = np.array_split(np.arange(len(lines)), min(points, len(lines)))
    curves: Curves = {"step": [lines[rows[-1]]["step"] for rows in parts]}
    for name in names:
        values = np.array([line.get(name, math.nan) for line in lines], dtype=float)
        # Lines without a value are left out of its mean; a logged NaN stays NaN.
        present = np.array([name in line for line in lines])
        means = [values[rows[present[rows]]].mean() if present[rows].any() else math.nan for rows in parts]
        curves[name] = [float(f"{mean:.5g}") if math.isfinite(mean) else None for mean in means]
    return curves


def read_curves(path: Path) -> dict[str, Curves]:
    """{run: curves}. Raises UserError unless this script wrote the file."""
    try:
        runs = read_json(path)["runs"]
        whole = all({len(values) for values in one.values()} == {len(one["step"])} for one in runs.values())
    except (TypeError, KeyError, AttributeError):
        whole = False
    if not whole:
        raise UserError(f"{path}: holds no learning curves; give a .json written by plot_training.py")
    return runs


def write_curves(path: Path, runs: dict[str, Curves]) -> None:
    """One curve per line, so that files are readable and can be compared."""
    texts = [
        f"{json.dumps(run)}: {{\n"
        + ",\n".join(f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in curves.items())
        + "}"
        for run, curves in runs.items()
    ]
    write_lines(path, ['{"runs": {', ",\n".join(texts), "}}"])


def names_of(folders: list[Path]) -> list[str]:
    """Names of the runs: as many last parts of their paths as distinguish them.

    Not whole paths, which would reveal folders of the user's machine. Raises UserError for a run named twice.
    """
    paths = [folder.resolve().parts for folder in folders]
    if len(set(paths)) < len(paths):
        raise UserError("--runs names a folder twice; give each once")
    count = 1
    while len({parts[-count:] for parts in paths}) < len(paths):
        count += 1
    return ["/".join(parts[-count:]) for parts in paths]


def plot(curves: dict[str, Curves], reference: dict[str, Curves], path: Path) -> None:
    """Write a PNG with a panel for every value of the runs, in the order of their logs."""
    names = list(dict.fromkeys(name for run in curves.values() for name in run if name != "step"))
    columns = min(COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(3.2 * columns, 2.2 * rows + 0.5), layout="constrained", dpi=110)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axes, name in zip(grid.flat, names, strict=False):
        draw(axes, name, curves, reference)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes in grid.flat[max(0, len(names) - columns) : len(names)]:
        axes.tick_params(labelbottom=True)  # also in the last but one row if the last one is incomplete
    figure.supxlabel("step", fontsize="small")
    lines = {line.get_label(): line for axes in grid.flat for line in axes.lines}
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=4, fontsize="small")
    with writing(path) as temporary:
        figure.savefig(temporary, format="png")


def draw(axes: Axes, name: str, curves: dict[str, Curves], reference: dict[str, Curves]) -> None:
    """One value of all runs over the steps, the reference behind; lines bridge missing numbers."""
    behind = [("reference", one, "0.7", 3.0) for one in reference.values()]
    own = [(label, one, f"C{at % 10}", 1.2) for at, (label, one) in enumerate(curves.items())]
    for label, one, colour, width in behind + own:
        if name in one:
            values = np.array(one[name], dtype=float)  # None becomes NaN
            known = np.isfinite(values)
            axes.plot(
                np.array(one["step"])[known],
                values[known],
                color=colour,
                linewidth=width,
                label=label,
                marker="." if known.sum() < 10 else None,
            )
    axes.set_title(name.replace("_", " "), fontsize="small")
    axes.tick_params(labelsize="x-small")
    axes.grid(linewidth=0.4, alpha=0.6)


if __name__ == "__main__":
    run(main, Options)
