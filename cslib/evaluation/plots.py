"""Plots: DET curves on normal-deviate axes, histograms of trial scores, confusion matrices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import ndtri

from cslib.evaluation.error_rates import det_curve, eer_of_curve
from cslib.files import writing

TICKS = [0.1, 0.5, 1, 2, 5, 10, 20, 40, 60, 80]  # percent
RANGE = (0.05, 90)  # percent
TARGET_COLOUR, NONTARGET_COLOUR = "tab:blue", "tab:orange"


@dataclass
class Panel:
    """The scores [n] of one system on one trial list; targets, bool [n], marks the target trials."""

    system: str
    trials: str
    scores: np.ndarray
    targets: np.ndarray


def plot_det(panels: list[Panel], path: Path | str, title: str = "") -> None:
    """Write a PNG with one plot per trial list and one curve per system; a dot marks the EER.

    Normally distributed scores give a straight line.
    """
    lists = _distinct(panel.trials for panel in panels)
    colours = {system: f"C{at % 10}" for at, system in enumerate(_distinct(panel.system for panel in panels))}
    figure = _figure(1, len(lists), 5.2, 5.2, title)
    for axes, trials in zip(figure.subplots(1, len(lists), squeeze=False)[0], lists, strict=True):
        _det_axes(axes, trials)
        for panel in panels:
            if panel.trials == trials:
                _draw_det(axes, panel, colours[panel.system])
        axes.legend(loc="upper right", fontsize="small", title="EER")
    _save(figure, path)


def plot_histograms(panels: list[Panel], path: Path | str, title: str = "") -> None:
    """Write a PNG with a histogram for each system (rows) and trial list (columns).

    A line marks the threshold of the EER.
    """
    systems = _distinct(panel.system for panel in panels)
    lists = _distinct(panel.trials for panel in panels)
    figure = _figure(len(systems), len(lists), 4.2, 2.4, title)
    grid = figure.subplots(len(systems), len(lists), squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)  # a system may lack a trial list
    for panel in panels:
        axes = grid[systems.index(panel.system), lists.index(panel.trials)]
        axes.set_visible(True)
        _draw_histogram(axes, panel)
    next(axes for axes in grid.flat if axes.get_visible()).legend(fontsize="small")
    _save(figure, path)


def plot_confusions(confusions: dict[str, np.ndarray], classes: list[str], path: Path | str, title: str = "") -> None:
    """Write a PNG with a matrix for each system: counts, shaded by their share of the true class (row).

    confusions  {title: [K, K]} of each system
    """
    figure = _figure(1, len(confusions), 0.7 * len(classes) + 2, 0.7 * len(classes) + 1, title)
    for axes, (name, counts) in zip(
        figure.subplots(1, len(confusions), squeeze=False)[0], confusions.items(), strict=True
    ):
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
        for (row, column), count in np.ndenumerate(counts):
            axes.text(
                column,
                row,
                f"{count:,}\n{shares[row, column]:.0%}",
                ha="center",
                va="center",
                fontsize="small",
                color="white" if shares[row, column] > 0.6 else "black",
            )
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        axes.set_yticks(range(len(classes)), classes)
        axes.set(title=name, xlabel="predicted class", ylabel="true class")
    _save(figure, path)


def _draw_det(axes: Axes, panel: Panel, colour: str) -> None:
    far, frr, _ = det_curve(panel.scores, panel.targets)
    eer = eer_of_curve(far, frr)
    axes.plot(_deviates(far), _deviates(frr), color=colour, linewidth=1.4, label=f"{panel.system}  {eer:.2f} %")
    axes.plot(*[_deviates(np.array([eer / 100]))] * 2, "o", color=colour, markersize=4)


def _det_axes(axes: Axes, trials: str) -> None:
    marks, limits = (ndtri(np.array(percent) / 100) for percent in (TICKS, RANGE))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(marks, [f"{tick:g}" for tick in TICKS])
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.set(title=trials, xlabel="false alarms (%)", ylabel="misses (%)")
    axes.grid(linewidth=0.4, alpha=0.6)
    axes.plot(limits, limits, color="grey", linewidth=0.6, linestyle=":")


def _deviates(rates: np.ndarray) -> np.ndarray:
    """Normal deviates of rates; 0 and 1, which have none, are drawn just outside the axes."""
    return ndtri(np.clip(rates, RANGE[0] / 200, 1 - RANGE[0] / 200))


def _draw_histogram(axes: Axes, panel: Panel) -> None:
    far, frr, thresholds = det_curve(panel.scores, panel.targets)
    edges = np.linspace(panel.scores.min(), panel.scores.max() + 1e-6, 81).tolist()
    for mask, label, colour in (
        (panel.targets, "targets", TARGET_COLOUR),
        (~panel.targets, "non-targets", NONTARGET_COLOUR),
    ):
        axes.hist(panel.scores[mask], bins=edges, density=True, color=colour, alpha=0.6, label=label)
    axes.axvline(thresholds[np.argmax(frr >= far)], color="black", linewidth=0.8, linestyle="--")
    axes.set_title(f"{panel.system}, {panel.trials}: EER {eer_of_curve(far, frr):.2f} %", fontsize="small")
    axes.set(xlabel="score", yticks=[])


def _figure(rows: int, columns: int, width: float, height: float, title: str) -> Figure:
    figure = Figure(figsize=(width * columns, height * rows + 0.4), layout="constrained", dpi=110)
    figure.suptitle(title)
    return figure


def _save(figure: Figure, path: Path | str) -> None:
    with writing(path) as temporary:
        figure.savefig(temporary, format="png")


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
