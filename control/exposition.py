"""Prometheus' two text formats, written straight from columns of numbers.

``prometheus_client`` makes an object of each sample and formats it by itself, some seven microseconds each: with
64 queue pairs, more than thirty milliseconds a scrape. Here the text before each value is made once a device, and
a scrape joins it with the values.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

from mpnet.control.usage import Usage
from mpnet.segment.segment import Segment

Number = int | float


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a device.

    Attributes:
        segment: its shared memory.
        header: a copy of the header there, so that all that is taken from it is of one moment.
        usage: what the worker of each slot has used.
    """

    segment: Segment
    header: Any
    usage: Sequence[Usage]


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: what is said of it, which samples it has of a device and where their values come from.

    Attributes:
        name: without ``_total``.
        kind: its type.
        help_text: one line for people.
        series: what follows the name in each sample of a device: a suffix and labels.
        values: the samples' values, in the order of ``series`` of the same reading.
        fixed: a device's series never change.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help_text: str
    series: Callable[[Reading], list[str]]
    values: Callable[[Reading], Sequence[Number]]
    fixed: bool = True

    def head(self, *, openmetrics: bool) -> str:
        """The lines before its samples; OpenMetrics names a counter without its suffix."""
        name = self.name if openmetrics or self.kind != "counter" else f"{self.name}_total"
        return f"# HELP {name} {self.help_text}\n# TYPE {name} {self.kind}\n"


class Exposition:
    """Writes families of devices.

    Args:
        families: in the order in which they are written.
    """

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families
        self._names: WeakKeyDictionary[Segment, dict[str, list[str]]] = WeakKeyDictionary()

    def text(self, readings: Sequence[Reading], *, openmetrics: bool) -> str:
        """All samples of all devices; without the mark that ends an OpenMetrics text."""
        parts: list[str] = []
        for family in self._families:
            parts.append(family.head(openmetrics=openmetrics))
            for reading in readings:
                names = self._names_of(family, reading)
                pairs = zip(names, family.values(reading), strict=True)
                parts += [f"{name} {value}\n" for name, value in pairs]
        return "".join(parts)

    def _names_of(self, family: Family, reading: Reading) -> list[str]:
        known = self._names.setdefault(reading.segment, {})
        if family.name not in known or not family.fixed:
            known[family.name] = [family.name + series for series in family.series(reading)]
        return known[family.name]


def labels(pairs: Mapping[str, object]) -> str:
    """Write labels; their values are ids of devices, numbers and names of enumerations, which need no escapes."""
    return "{" + ",".join(f'{name}="{value}"' for name, value in pairs.items()) + "}"


def cumulated(counts: Iterable[int], total: Number) -> list[Number]:
    """A histogram's values from counts of its buckets: each with those below it, then the count, then the sum."""
    values: list[Number] = []
    below = 0
    for count in counts:
        below += count
        values.append(below)
    return [*values, below, total]
