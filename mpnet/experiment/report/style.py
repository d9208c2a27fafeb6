"""How all plots look: dark on light, points of single trials over means with intervals."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mpnet.experiment.analysis import positive_estimate

COLOURS = ("#0b5fa5", "#c8500a", "#2e7d32", "#8e3b8e", "#7a5c00", "#007c89", "#b3123f", "#4a4a4a")
MARKS = "osD^vPX*"
INK, GRID = "#1c1c1c", "#d9d9d9"
_LINE_CHARACTERS = 44
FONT: Any = {
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.edgecolor": "#7a7a7a",
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",  # text stays text: smaller, and found by a search
    "svg.hashsalt": "mpnet",
    "legend.frameon": False,
}


def canvas(width: float, height: float, columns: int = 1, rows: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure of inches and its axes, shape ``(rows, columns)``; no window, no state left behind."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for each in axes.flat:
        tidy(each)
    return figure, axes


def tidy(axes: Axes) -> None:
    """No frame, a faint grid below the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def wrapped(text: str) -> str:
    """A configuration's name in lines, so that it leaves room for what it names."""
    return textwrap.fill(text, _LINE_CHARACTERS, break_long_words=False)


def row_inches(names: Sequence[str]) -> float:
    """How high the row of each name must be."""
    return 0.17 + 0.17 * max(1 + wrapped(name).count("\n") for name in names)


def si(axis: Any, unit: str = "") -> None:
    """Ticks as 1.5 M."""
    axis.set_major_formatter(ticker.EngFormatter(unit=unit, sep=" "))


def points(
    axes: Axes, x: float, values: Sequence[float], doubtful: Sequence[bool], colour: str, *, across: bool = False
) -> None:
    """Single trials beside each other; hollow where something was odd. ``across``: values run along x."""
    spread = np.linspace(-0.08, 0.08, len(values)) if len(values) > 1 else np.zeros(1)
    for hollow in (False, True):
        chosen = [number for number, odd in enumerate(doubtful) if bool(odd) is hollow]
        if not chosen:
            continue
        along, value = x + spread[chosen], np.asarray(values)[chosen]
        first, second = (value, along) if across else (along, value)
        axes.scatter(
            first, second, s=18, facecolors="white" if hollow else colour, edgecolors=colour, alpha=0.75,
            linewidths=0.9, zorder=3,
        )  # fmt: skip


def interval(
    axes: Axes, x: float, values: Sequence[float], colour: str, mark: str = "o", *, across: bool = False
) -> None:
    """The mean and where it lies."""
    found = positive_estimate(values)
    low = 0.0 if np.isnan(found.low) else found.mean - found.low
    high = 0.0 if np.isnan(found.high) else found.high - found.mean
    error = [[low], [high]]
    style: dict[str, Any] = {
        "fmt": mark, "color": colour, "markersize": 7, "capsize": 4, "elinewidth": 1.6, "zorder": 4,
        "markeredgecolor": "white", "markeredgewidth": 0.8,
    }  # fmt: skip
    if across:
        axes.errorbar([found.mean], [x], xerr=error, **style)
    else:
        axes.errorbar([x], [found.mean], yerr=error, **style)
