"""What results of the bench come to: how many times better mpnet is than each system, round by round."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from mpnet.experiment.analysis import Estimate, estimate
from mpnet.experiment.record import FIGURES, Record
from mpnet.experiment.report.plots import Picture
from mpnet.experiment.report.style import COLOURS, MARKS, canvas
from mpnet.experiment.report.text import interval, number

_OURS = "mpnet"

_Samples = dict[tuple[str, str, str], dict[int, float]]
"""Values by round, for a case, one of its figures and a system."""


def _samples(records: Sequence[Record]) -> _Samples:
    found: _Samples = defaultdict(dict)
    for record in records:
        for name, value in record.figures.items():
            found[record.factors["case"], name, record.factors["system"]][record.replicate] = value
    # By case and figure, for records come round by round.
    places = {key[:2]: place for place, key in reversed(list(enumerate(found)))}
    return dict(sorted(found.items(), key=lambda item: places[item[0][:2]]))


def _ratios(samples: _Samples, case: str, figure: str, system: str) -> list[float]:
    """Above 1 mpnet is better; only of rounds in which both have a figure."""
    ours, theirs = samples.get((case, figure, _OURS), {}), samples[case, figure, system]
    if system == _OURS:
        return []
    pairs = [(ours[number], value) for number, value in theirs.items() if ours.get(number, 0) > 0 and value > 0]
    return [other / one if FIGURES[figure].lower else one / other for one, other in pairs]


def _estimate(ratios: Sequence[float]) -> Estimate:
    """Their geometric mean."""
    found = estimate(np.log(ratios).tolist())
    return Estimate(*(float(np.exp(value)) for value in (found.mean, found.low, found.high)))


def rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """A row for each figure of a case on a system: mean, unit, ratio with its interval, rounds."""
    samples = _samples(records)
    found: list[tuple[str, ...]] = []
    for (case, figure, system), values in samples.items():
        ratios = _ratios(samples, case, figure, system)
        shown = f"{_estimate(ratios).mean:.2f} ({interval(_estimate(ratios))})" if ratios else ""
        mean = number(float(np.mean(list(values.values()))))
        what = FIGURES[figure]
        found.append((case, what.title, system, mean, what.unit, shown, str(len(values))))
    return found


def _named(samples: _Samples, case: str, figure: str) -> str:
    """A case, and which of its figures where it has several."""
    several = len({name for other, name, _ in samples if other == case}) > 1
    return f"{case}: {FIGURES[figure].title}" if several else case


def picture(records: Sequence[Record]) -> Picture | None:
    """Ratios by case, every round of them; None where there is nothing to compare."""
    samples = _samples(records)
    compared = {key: ratios for key in samples if (ratios := _ratios(samples, *key))}
    if not compared:
        return None
    cases = list(dict.fromkeys(key[:2] for key in compared))
    systems = list(dict.fromkeys(system for *_, system in compared))
    figure, axes = canvas(8.4, 1.3 + 0.42 * len(cases))
    each = axes[0, 0]
    for (case, figure_name, system), ratios in compared.items():
        number_ = systems.index(system)
        row = cases.index((case, figure_name)) + 0.18 * (number_ - (len(systems) - 1) / 2)
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
    each.set_yticks(range(len(cases)), [_named(samples, *key) for key in cases])
    each.set_ylim(len(cases) - 0.4, -0.6)
    each.grid(visible=True, axis="x", color="#d9d9d9", linewidth=0.7)
    each.grid(visible=False, axis="y")
    each.set_xlabel("mpnet is so many times better (logarithmic)")
    figure.legend(loc="outside upper left", ncols=4)
    text = (
        "Small points are rounds, bars 95 % intervals. Right of the line mpnet is better, for time and cost too."
    )
    return Picture("peers", "Ratios by case", text, figure)
