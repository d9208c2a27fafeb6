"""The pictures of a family of trials. Each shows every trial, not the means alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mpnet.experiment.analysis import positive_estimate
from mpnet.experiment.factors import label
from mpnet.experiment.frame import NUMERIC, Family
from mpnet.experiment.record import PERCENTILES
from mpnet.experiment.report.style import COLOURS, GRID, MARKS, canvas, interval, points, row_inches, si, wrapped
from mpnet.experiment.side_effects import Efficiency, efficiencies

_MOST_PANELS = 6
_MOST_LINES = 8
_MOST_ROWS = 24
_MOST_RESPONSES = 3


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of the report.

    Attributes:
        name: of its file, without an ending.
        title: above it.
        text: what is seen, below the title.
        figure: it.
    """

    name: str
    title: str
    text: str
    figure: Figure


def pictures(family: Family) -> Iterator[Picture]:
    """All that there is to see."""
    yield from responses(family)
    yield from efficiency(family)
    yield from balance(family)
    yield from cost(family)
    yield from latency(family)
    yield from steadiness(family)


def axis_title(family: Family) -> str:
    """What the metric's axis says."""
    figure = family.figure
    return f"{figure.title} ({figure.unit})" if figure.unit else figure.title


def responses(family: Family) -> Iterator[Picture]:
    """The metric against each factor with amounts, or against the first factor where none has."""
    amounts = [name for name in NUMERIC if name in family.factors]
    for factor in (amounts or family.factors)[:_MOST_RESPONSES]:
        others = sorted(
            (name for name in family.factors if name != factor), key=lambda name: _spread(family, name)
        )
        hue, facets = (others[-1], others[:-1]) if others else (None, [])
        yield Picture(
            f"{family.metric}-{factor}",
            f"{family.figure.title.capitalize()} against {factor}",
            "Means with their 95 % intervals over points of single trials; hollow: something was odd meanwhile.",
            _response(family, factor, hue, facets),
        )


def _spread(family: Family, factor: str) -> float:
    """How far the means of a factor's levels lie apart."""
    means = family.frame.groupby(factor)[family.metric].mean()
    return float(means.max() / means.min()) if means.min() > 0 else 0.0


def _response(family: Family, factor: str, hue: str | None, facets: list[str]) -> Figure:
    groups = list(family.in_order.groupby(facets, sort=False)) if facets else [((), family.frame)]
    groups = groups[:_MOST_PANELS]
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure, axes = canvas(max(6.4, 4.0 * columns), 3.7 * rows, columns, rows, sharex=True, sharey=True)
    levels = family.levels[factor]
    for place, each in enumerate(axes.flat):
        if place >= len(groups):
            each.set_visible(False)
            continue
        key, group = groups[place]
        _lines(each, family, group, factor, hue, levels)
        each.set_title(", ".join(f"{name}={label(level)}" for name, level in zip(facets, key, strict=True)))
        each.set_xticks(range(len(levels)), [label(_plain(level)) for level in levels])
        if place % columns == 0:
            each.set_ylabel(axis_title(family))
        each.set_xlabel(factor)
    if hue is not None:
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, title=hue, loc="outside right upper")
    return figure


def _lines(
    axes: Axes, family: Family, group: pd.DataFrame, factor: str, hue: str | None, levels: list[Any]
) -> None:
    shades = family.levels[hue][:_MOST_LINES] if hue is not None else [None]
    for number, shade in enumerate(shades):
        own = group[group[hue] == shade] if hue is not None else group
        colour, mark = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
        # Beside each other, for intervals that would hide one another.
        shift = 0.12 * (number - (len(shades) - 1) / 2)
        means = []
        for place, level in enumerate(levels):
            trials = own[own[factor] == level]
            if trials.empty:
                continue
            values = list(trials[family.metric])
            points(axes, place + shift, values, list(trials["doubtful"]), colour)
            interval(axes, place + shift, values, colour, mark)
            means.append((place + shift, positive_estimate(values).mean))
        axes.plot(*zip(*means, strict=True), color=colour, linewidth=1.3, marker=mark, label=label(_plain(shade)))
    axes.set_ylim(bottom=0)
    axes.margins(y=0.08)
    if family.metric == "pps":
        si(axes.yaxis)


def _plain(level: Any) -> Any:
    """A level as Python has it: numpy's whole numbers print as such, pandas' floats too."""
    return level.item() if hasattr(level, "item") else level


def efficiency(family: Family) -> Iterator[Picture]:
    """How near more workers, or pairs, come to as many times the throughput of the fewest."""
    found = list(efficiencies(family))
    for factor in dict.fromkeys(each.factor for each in found):
        yield Picture(
            f"efficiency-{factor}",
            f"Scaling efficiency by {factor}",
            f"Throughput as a share of what the fewest {factor} would give times as many; each trial against "
            "the one of its own block. 100 % is perfect scaling; what is above has another cause.",
            _efficiency([each for each in found if each.factor == factor], factor),
        )


def _efficiency(found: list[Efficiency], factor: str) -> Figure:
    figure, axes = canvas(7.2, 3.7)
    each = axes[0, 0]
    levels = sorted({one.level for one in found})
    kinds = list(dict.fromkeys(one.others for one in found))[:_MOST_LINES]
    for number, kind in enumerate(kinds):
        colour, mark = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
        shift = 0.1 * (number - (len(kinds) - 1) / 2)
        means = []
        for one in sorted((one for one in found if one.others == kind), key=lambda one: one.level):
            place, values = levels.index(one.level) + shift, [100 * share for share in one.share]
            points(each, place, values, one.doubtful, colour)
            interval(each, place, values, colour, mark)
            means.append((place, 100 * one.estimate.mean))
        each.plot(
            *zip(*means, strict=True),
            color=colour,
            linewidth=1.2,
            marker=mark,
            label=wrapped(kind or "all trials"),
        )
    each.axhline(100, color="#7a7a7a", linewidth=1, linestyle="--")
    each.set_xticks(range(len(levels)), [str(level) for level in levels])
    each.set_xlabel(factor)
    each.set_ylabel("efficiency (%)")
    each.set_ylim(bottom=0)
    if len(kinds) > 1:
        figure.legend(loc="outside right upper")
    return figure


def balance(family: Family) -> Iterator[Picture]:
    """How evenly queue pairs share the packets."""
    shares: dict[str, list[list[float]]] = {}
    for record, name in zip(family.records, family.frame["configuration"], strict=True):
        counts = [queue["rx_packets"] + queue["tx_packets"] for queue in record.queues]
        if len(counts) > 1 and any(counts):
            shares.setdefault(name, []).append([100 * count / sum(counts) for count in counts])
    names = [name for name in family.configurations if name in shares][:_MOST_ROWS]
    if not names:
        return
    figure, axes = canvas(8, 1.2 + row_inches(names) * len(names))
    each = axes[0, 0]
    for row, name in enumerate(names):
        even = 100 / len(shares[name][0])
        each.plot([even, even], [row - 0.35, row + 0.35], color="#7a7a7a", linewidth=2)
        for queues in shares[name]:
            for queue, share in enumerate(queues):
                colour = COLOURS[queue % len(COLOURS)]
                each.scatter(
                    share, row, s=26, color=colour, alpha=0.7, marker=MARKS[queue % len(MARKS)], zorder=3
                )
    most = max(len(shares[name][0]) for name in names)
    for queue in range(min(most, _MOST_LINES)):
        each.scatter([], [], color=COLOURS[queue], marker=MARKS[queue], label=f"queue pair {queue}")
    _rows(each, names)
    each.set_xlabel("share of the packets (%)")
    each.set_xlim(-2, 102)
    figure.legend(loc="outside upper left", ncols=4)
    yield Picture(
        "balance",
        "Balance of the queue pairs",
        "Each mark is one queue pair's share in one trial; the bar is where all would be if they shared evenly.",
        figure,
    )


def cost(family: Family) -> Iterator[Picture]:
    """Processor time that the device takes for a packet."""
    if "cpu_ns_per_packet" not in family.frame or family.metric != "pps":
        return
    frame = family.frame.dropna(subset=["cpu_ns_per_packet"])
    names = [name for name in family.configurations if name in set(frame["configuration"])][:_MOST_ROWS]
    figure, axes = canvas(8, 1.1 + row_inches(names) * len(names))
    each = axes[0, 0]
    for row, name in enumerate(names):
        own = frame[frame["configuration"] == name]
        points(each, row, list(own["cpu_ns_per_packet"]), list(own["doubtful"]), COLOURS[0], across=True)
        interval(each, row, list(own["cpu_ns_per_packet"]), COLOURS[1], across=True)
    _rows(each, names)
    each.set_xlabel("processor time of the device a packet (ns), less is better")
    each.set_xlim(left=0)
    yield Picture(
        "cost",
        "Processor time a packet",
        "Of all the device's processes, user and system time, divided by the packets that arrived.",
        figure,
    )


def _rows(axes: Axes, names: list[str]) -> None:
    """A row for each configuration, the first on top."""
    axes.set_yticks(range(len(names)), [wrapped(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=True, axis="x", color=GRID, linewidth=0.7)
    axes.grid(visible=False, axis="y")


def latency(family: Family) -> Iterator[Picture]:
    """Percentiles of round trips, and what they cost."""
    if not family.metric.startswith("rtt"):
        return
    figure, axes = canvas(8.4, 4.2)
    each = axes[0, 0]
    names = family.configurations[:_MOST_LINES]
    columns = [f"rtt_p{share:g}_us" for share in PERCENTILES]
    for number, name in enumerate(names):
        own = family.frame[family.frame["configuration"] == name][columns]
        colour = COLOURS[number % len(COLOURS)]
        places = range(len(columns))
        each.plot(
            places, own.mean(), color=colour, marker=MARKS[number % len(MARKS)], markersize=5, label=wrapped(name)
        )
        each.fill_between(places, own.min(), own.max(), color=colour, alpha=0.13, linewidth=0)
    each.set_yscale("log")
    each.set_xticks(range(len(columns)), ["max" if share == 100 else f"p{share:g}" for share in PERCENTILES])
    each.set_ylabel("round trip (µs)")
    each.set_xlabel("share of the pings that took no longer")
    figure.legend(loc="outside right upper")
    yield Picture(
        "latency",
        "Round trips by percentile",
        "Lines are means over the replicates, bands reach from their lowest to their highest.",
        figure,
    )
    yield Picture(
        "latency-cost", "Round trips against processor time",
        "One point a trial: what a quicker answer costs. Lower left is better.", _tradeoff(family),
    )  # fmt: skip


def _tradeoff(family: Family) -> Figure:
    figure, axes = canvas(8.4, 3.8)
    each = axes[0, 0]
    for number, name in enumerate(family.configurations[:_MOST_LINES]):
        own = family.frame[family.frame["configuration"] == name]
        each.scatter(
            100 * own["device_cores"], own["rtt_p50_us"], s=34, color=COLOURS[number % len(COLOURS)],
            marker=MARKS[number % len(MARKS)], label=wrapped(name), alpha=0.8,
        )  # fmt: skip
    each.set_xlabel("processor time of the device (% of a processor)")
    each.set_ylabel("round trip, p50 (µs)")
    each.set_xlim(left=0)
    each.set_ylim(bottom=0)
    figure.legend(loc="outside right upper")
    return figure


def steadiness(family: Family) -> Iterator[Picture]:
    """Whether the run drifted, and whether trials were steady within themselves."""
    figure, axes = canvas(9, 3.4, 2)
    drift, within = axes[0]
    means = family.frame.groupby("configuration")[family.metric].transform("mean")
    apart = 100 * (family.frame[family.metric] / means - 1)
    for hollow in (False, True):
        own = family.frame["doubtful"] == hollow
        drift.scatter(
            family.frame["order"][own], apart[own], s=22, edgecolors=COLOURS[0],
            facecolors="white" if hollow else COLOURS[0],
        )  # fmt: skip
    drift.axhline(0, color="#7a7a7a", linewidth=1)
    drift.set_xlabel("place in the run")
    drift.set_ylabel("off its configuration's mean (%)")
    drift.set_title("over the run")
    for record in family.records:
        if record.series is not None and record.series.queues:
            seconds, rates = _rates(record.series.seconds, record.series.queues)
            within.plot(seconds, rates, color=COLOURS[0], alpha=0.25, linewidth=0.9)
    within.set_xlabel("seconds into the trial")
    within.set_ylabel("rate (% of the trial's mean)")
    within.set_title("within trials")
    within.set_ylim(bottom=0)
    yield Picture(
        f"{family.metric}-steadiness",
        "Was it steady?",
        "Left: a slope or a step means that the machine changed during the run. Right: one line a trial; it is "
        "flat where the warm-up was long enough.",
        figure,
    )


def _rates(seconds: list[float], queues: dict[str, list[list[float]]]) -> tuple[Any, Any]:
    """Packets of all queue pairs between two looks, as a share of the mean."""
    packets = np.sum([series for name in ("rx_packets", "tx_packets") for series in queues[name]], axis=0)
    times, counts = np.diff(seconds), np.diff(packets)
    # The last look comes right after the one before: too short a time for a rate.
    kept = times > 0.5 * np.median(times)
    rates = counts[kept] / times[kept]
    mean = rates.mean() if len(rates) and rates.mean() > 0 else 1.0
    return np.asarray(seconds[1:])[kept], 100 * rates / mean
