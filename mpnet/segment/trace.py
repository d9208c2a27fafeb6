"""Traces: what a device's processes did last, kept in its segment where a dead process's can still be read.

Each worker slot has a trace and control has one. A trace is a ring of ``layout.EVENT`` records behind a count of
all events there ever were. Its one writer takes a record back (sequence 0), fills it and numbers it, so that a
reader, who takes no lock, can tell a record that was overwritten while it read. A replacement of a dead worker
goes on where that one stopped.
"""

import enum
import mmap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from mpnet.segment import layout
from mpnet.segment.layout import EVENT, TRACE_ENTRIES, Fault, RestartReason

NO_SUBJECT = -1
"""As an event's subject: it is about the whole device or process."""


class Kind(enum.IntEnum):
    """What happened: up to 16 what a worker tells, above what control does."""

    WORKER_STARTED = 1
    WORKER_STOPPED = 2
    MEMORY_SET = 3
    PAIR_ATTACHED = 4
    PAIR_DETACHED = 5
    RING_STARTED = 6
    RING_ENABLED = 7
    RING_DISABLED = 8
    RING_STOPPED = 9
    RING_BROKEN = 10
    STALLED = 11
    BURST = 12
    SESSION_OPENED = 17
    SESSION_CLOSED = 18
    FEATURES_SET = 19
    REQUEST_REFUSED = 20
    WORKER_LAUNCHED = 21
    WORKER_ENDED = 22
    WORKER_DISMISSED = 23
    PAIR_MOVED = 24
    CAPTURE_STARTED = 25
    CAPTURE_STOPPED = 26


VALUES: Mapping[Kind, tuple[str, ...]] = MappingProxyType(
    {
        Kind.WORKER_STARTED: ("pid",),
        Kind.WORKER_STOPPED: ("pid",),
        Kind.MEMORY_SET: ("regions", "bytes"),
        Kind.PAIR_ATTACHED: (),
        Kind.PAIR_DETACHED: (),
        Kind.RING_STARTED: ("entries", "place"),
        Kind.RING_ENABLED: ("entries", "place"),
        Kind.RING_DISABLED: ("entries", "place"),
        Kind.RING_STOPPED: ("place",),
        Kind.RING_BROKEN: ("fault", "place"),
        Kind.STALLED: ("nanoseconds",),
        Kind.BURST: ("packets", "place"),
        Kind.SESSION_OPENED: ("pid",),
        Kind.SESSION_CLOSED: ("pid",),
        Kind.FEATURES_SET: ("features",),
        Kind.REQUEST_REFUSED: ("request",),
        Kind.WORKER_LAUNCHED: ("pid",),
        Kind.WORKER_ENDED: ("pid", "reason"),
        Kind.WORKER_DISMISSED: ("pid",),
        Kind.PAIR_MOVED: ("worker", "previous"),
        Kind.CAPTURE_STARTED: ("rings",),
        Kind.CAPTURE_STOPPED: (),
    }
)
"""Names of an event's values, at most three."""

_MOST_EVENTS = (1 << 62) - 1

RING_KINDS = frozenset(
    {
        Kind.RING_STARTED,
        Kind.RING_ENABLED,
        Kind.RING_DISABLED,
        Kind.RING_STOPPED,
        Kind.RING_BROKEN,
        Kind.BURST,
    }
)
"""Events whose subject is a ring."""
PAIR_KINDS = frozenset({Kind.PAIR_ATTACHED, Kind.PAIR_DETACHED, Kind.PAIR_MOVED})
"""Events whose subject is a queue pair."""
KINDS: Mapping[int, str] = MappingProxyType({int(kind): kind.name.lower() for kind in Kind})
"""What events are called."""
_MEANINGS: Mapping[str, Mapping[int, str]] = MappingProxyType(
    {
        "fault": {int(fault): fault.name.lower() for fault in Fault},
        "reason": {int(reason): reason.name.lower() for reason in RestartReason},
    }
)


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    Attributes:
        number: in its trace, counted from 1.
        time_ns: when, CLOCK_REALTIME.
        kind: a ``Kind``; a number that is none comes of another version's writer.
        subject: the ring, queue pair or worker slot it is about, or ``NO_SUBJECT``.
        values: as ``VALUES`` names them; three in any case.
    """

    number: int
    time_ns: int
    kind: int
    subject: int
    values: tuple[int, int, int]

    def named_values(self) -> dict[str, int | str]:
        """The values by name; faults and reasons as their names in lower case."""
        names = VALUES.get(Kind(self.kind), ()) if self.kind in KINDS else ()
        numbers = dict(zip(names, self.values, strict=False))
        return {name: _MEANINGS.get(name, {}).get(value, value) for name, value in numbers.items()}


class Trace:
    """One trace of a mapped segment.

    Args:
        memory: the mapping.
        offset: where the trace begins in it.
    """

    def __init__(self, memory: mmap.mmap, offset: int) -> None:
        self._count: Any = np.ndarray((1,), np.int64, memory, offset)
        self._events: Any = np.ndarray((TRACE_ENTRIES,), EVENT, memory, offset + layout.CACHE_LINE)

    @property
    def count(self) -> int:
        """Events there ever were."""
        return int(self._count[0])

    def record(self, kind: Kind, subject: int = NO_SUBJECT, *values: int) -> None:
        """Add an event; for control, as a worker has compiled code for it (``workers.trace``).

        Args:
            kind: what happened.
            subject: the ring, queue pair or worker slot it is about.
            values: three at most, as ``VALUES`` names them.
        """
        # Workers can write here, too: a count that cannot be must not end what control is doing.
        count = self.count & _MOST_EVENTS
        event = self._events[count % TRACE_ENTRIES]
        event["sequence"] = 0
        first, second, third, *_ = *values, 0, 0, 0
        event["time_ns"], event["kind"], event["subject"] = time.time_ns(), kind, subject
        event["first"], event["second"], event["third"] = first, second, third
        event["sequence"] = count + 1
        self._count[0] = count + 1

    def read(self, after: int = 0) -> tuple[list[Event], int]:
        """Give the events behind number ``after``, oldest first, and how many of them were overwritten before."""
        count = self.count
        if count == after:
            return [], 0
        # All at once: a worker that traces its bursts overwrites them faster than Python takes one by one.
        copy, now = self._events.copy(), self._events["sequence"].copy()
        records = copy.tolist()
        events = []
        for number in range(max(after, count - TRACE_ENTRIES) + 1, count + 1):
            place = (number - 1) % TRACE_ENTRIES
            sequence, time_ns, kind, subject, *values = records[place]
            if sequence == now[place] == number:
                events.append(Event(number, time_ns, kind, subject, (values[0], values[1], values[2])))
        return events, count - after - len(events)
