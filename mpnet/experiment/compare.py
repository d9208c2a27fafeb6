"""What changed between two runs: configuration by configuration, with an interval."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from mpnet.errors import MpnetError
from mpnet.experiment.analysis import Estimate, ratio
from mpnet.experiment.factors import label
from mpnet.experiment.frame import Results
from mpnet.experiment.record import FIGURES, Record

METRICS = (
    "pps", "goodput_gbps", "rtt_p50_us", "rtt_p99_us", "cpu_ns_per_packet",
    "one_worker_pps", "two_workers_pps", "one_worker_ns_per_packet", "two_workers_ns_per_packet", "idle_percent",
    "worker_mib", "recovery_ms",
)  # fmt: skip
"""Figures that are compared, where both runs have them."""
_PARTS = {"gbps": "pps", "tx_goodput_gbps": "goodput_gbps", "rx_goodput_gbps": "goodput_gbps"}
"""Figures that are compared likewise where there is not another one that says the same."""


class Change(msgspec.Struct, kw_only=True):
    """One figure of one configuration in both runs.

    Attributes:
        configuration: levels of the factors that vary in either run.
        figure: its name.
        unit: of the means.
        before: mean in the first run.
        after: mean in the second.
        trials: in the first and in the second.
        ratio: after to before, of geometric means.
        low: end of its interval of 95 %, by Welch; None where a run has a single trial.
        high: the other end.
        verdict: "better", "worse", or "no difference shown".
    """

    configuration: str
    figure: str
    unit: str
    before: float
    after: float
    trials: tuple[int, int]
    ratio: float
    low: float | None
    high: float | None
    verdict: str


class Comparison(msgspec.Struct, kw_only=True):
    """Two runs.

    Attributes:
        names: of both.
        factors: levels that one run has throughout and the other another one throughout: what was changed.
        environment: what else differs between the machines and the software.
        changes: by configuration.
        only: configurations that one run has alone, in the first and in the second.
    """

    names: tuple[str, str]
    factors: dict[str, tuple[str, str]]
    environment: dict[str, tuple[str, str]]
    changes: list[Change]
    only: tuple[list[str], list[str]]


def compare(before: Results, after: Results) -> Comparison:
    """Compare configurations that both runs have; a factor that was changed throughout is not told apart by.

    Raises:
        MpnetError: they have none in common.
    """
    changed = _changed(before.records, after.records)
    told = _varied([*before.records, *after.records], set(changed))
    ours, theirs = _groups(before.records, told), _groups(after.records, told)
    common = [key for key in ours if key in theirs]
    if not common:
        raise MpnetError(
            f"{before.name!r} and {after.name!r} have no configuration in common",
            "compare runs of the same sweep, or of one in which one factor was changed throughout",
        )
    changes = [change for key in common for change in _changes(key, ours[key], theirs[key])]
    return Comparison(
        names=(before.name, after.name),
        factors=changed,
        environment=_environment(before.records, after.records),
        changes=changes,
        only=([key for key in ours if key not in theirs], [key for key in theirs if key not in ours]),
    )


def _levels(records: Sequence[Record], factor: str) -> set[str]:
    return {label(record.factors.get(factor)) for record in records}


def _changed(before: Sequence[Record], after: Sequence[Record]) -> dict[str, tuple[str, str]]:
    found = {}
    for factor in before[0].factors:
        ours, theirs = _levels(before, factor), _levels(after, factor)
        if len(ours) == len(theirs) == 1 and ours != theirs:
            found[factor] = (ours.pop(), theirs.pop())
    return found


def _varied(records: Sequence[Record], changed: set[str]) -> list[str]:
    factors = [factor for factor in records[0].factors if factor not in changed]
    return [factor for factor in factors if len(_levels(records, factor)) > 1]


def _groups(records: Sequence[Record], factors: Sequence[str]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        shown = " ".join(f"{factor}={label(record.factors.get(factor))}" for factor in factors)
        found[shown or "all trials"].append(record)
    return dict(sorted(found.items()))


def _changes(configuration: str, ours: Sequence[Record], theirs: Sequence[Record]) -> Iterator[Change]:
    known = {name for record in (*ours, *theirs) for name in record.figures}
    for name in (*METRICS, *(part for part, whole in _PARTS.items() if whole not in known)):
        one, other = _values(ours, name), _values(theirs, name)
        if one and other:
            found, figure = ratio(one, other), FIGURES[name]
            yield Change(
                configuration=configuration,
                figure=name,
                unit=figure.unit,
                before=sum(one) / len(one),
                after=sum(other) / len(other),
                trials=(len(one), len(other)),
                ratio=found.mean,
                low=None if math.isnan(found.low) else found.low,
                high=None if math.isnan(found.high) else found.high,
                verdict=_verdict(found, lower=figure.lower),
            )


def _values(records: Sequence[Record], name: str) -> list[float]:
    return [record.figures[name] for record in records if record.figures.get(name, 0) > 0]


def _verdict(found: Estimate, *, lower: bool) -> str:
    if math.isnan(found.low) or found.low <= 1 <= found.high:
        return "no difference shown"
    return "better" if (found.mean > 1) is not lower else "worse"


def _environment(before: Sequence[Record], after: Sequence[Record]) -> dict[str, tuple[str, str]]:
    ours, theirs = _machine(before), _machine(after)
    return {
        name: (ours.get(name, "–"), theirs.get(name, "–"))
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name)
    }


def _machine(records: Sequence[Record]) -> dict[str, str]:
    """What is to be compared of the machines of a run: several hosts' values side by side."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for record in records:
        if record.machine is not None:
            whole: dict[str, Any] = msgspec.to_builtins(record.machine)
            for name, value in (whole | whole.pop("versions")).items():
                found[name][str(value)] = None
    return {name: ", ".join(values) for name, values in found.items() if name != "versions"}
