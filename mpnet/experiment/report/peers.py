"""What results of the bench come to: how many times better mpnet is than each system, round by round."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from mpnet.experiment.analysis import Estimate, estimate
from mpnet.experiment.record import Record
from mpnet.experiment.report.plots import Picture
from mpnet.experiment.report.style import COLOURS, MARKS, canvas
from mpnet.experiment.report.text import interval, number

_OURS = "mpnet"
_RATES = {"packets/s", "Gbit/s"}
"""Units of which more is better; of all others less is."""


def _samples(records: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    """By case and system, one a round."""
    found: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        found[record.factors["case"], record.factors["system"]].append(record)
    return found


def _ratios(ours: Sequence[Record], theirs: Sequence[Record]) -> list[float]:
    """Above 1 mpnet is better; only of rounds in which both have a figure."""
    more = theirs[0].factors["unit"] in _RATES
    pairs = [(one.figures["value"], other.figures["value"]) for one, other in zip(ours, theirs, strict=True)]
    return [one / other if more else other / one for one, other in pairs if one > 0 and other > 0]


def _estimate(ratios: Sequence[float]) -> Estimate:
    """Their geometric mean."""
    found = estimate(np.log(ratios).tolist())
    return Estimate(*(float(np.exp(value)) for value in (found.mean, found.low, found.high)))


def rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """A row for each case and system: mean, unit, ratio with its interval."""
    samples = _samples(records)
    found: list[tuple[str, ...]] = []
    for (case, system), theirs in samples.items():
        ratios = _ratios(samples[case, _OURS], theirs) if system != _OURS and (case, _OURS) in samples else []
        shown = f"{_estimate(ratios).mean:.2f} ({interval(_estimate(ratios))})" if ratios else ""
        mean = number(float(np.mean([each.figures["value"] for each in theirs])))
        found.append((case, system, mean, theirs[0].factors["unit"], shown, str(len(theirs))))
    return found


def picture(records: Sequence[Record]) -> Picture | None:
    """Ratios by case, every round of them; None where there is nothing to compare."""
    samples = _samples(records)
    cases = list(dict.fromkeys(case for case, _ in samples))
    systems = list(dict.fromkeys(system for _, system in samples if system != _OURS))
    if not systems:
        return None
    figure, axes = canvas(8.4, 1.3 + 0.42 * len(cases))
    each = axes[0, 0]
    for (case, system), theirs in samples.items():
        if system == _OURS or (case, _OURS) not in samples:
            continue
        ratios = _ratios(samples[case, _OURS], theirs)
        if not ratios:
            continue
        number_ = systems.index(system)
        row = cases.index(case) + 0.18 * (number_ - (len(systems) - 1) / 2)
        colour, mark, found = COLOURS[number_], MARKS[number_], _estimate(ratios)
        each.scatter(ratios, [row] * len(ratios), s=16, color=colour, alpha=0.45, linewidths=0)
        if not np.isnan(found.low):
            each.plot([found.low, found.high], [row, row], color=colour, linewidth=1.6)
        each.scatter([found.mean], [row], s=42, color=colour, marker=mark, edgecolors="white", zorder=4)
    for number_, system in enumerate(systems):
        each.scatter([], [], color=COLOURS[number_], marker=MARKS[number_], label=f"against {system}")
    each.axvline(1, color="#7a7a7a", linewidth=1, linestyle="--")
    each.set_xscale("log")
    each.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    each.set_yticks(range(len(cases)), cases)
    each.set_ylim(len(cases) - 0.4, -0.6)
    each.grid(visible=True, axis="x", color="#d9d9d9", linewidth=0.7)
    each.grid(visible=False, axis="y")
    each.set_xlabel("mpnet is so many times better (logarithmic)")
    figure.legend(loc="outside upper left", ncols=4)
    text = (
        "Small points are rounds, bars 95 % intervals. Right of the line mpnet is better, for time and cost too."
    )
    return Picture("peers", "Ratios by case", text, figure)
