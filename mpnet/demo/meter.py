"""Rates and totals of a device's queue pairs, read from its shared memory."""

import time
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from mpnet.segment.layout import DropReason
from mpnet.segment.segment import Segment


@dataclass(frozen=True, slots=True)
class Rates:
    """What one queue pair did since it was last looked at; rx and tx are the guest's.

    Attributes:
        queue: its number.
        rx_frames: a second.
        rx_megabits: a second.
        tx_frames: a second.
        tx_megabits: a second.
        burst: frames the worker moved at a time, on average.
        drops: frames lost since the part began.
    """

    queue: int
    rx_frames: float
    rx_megabits: float
    tx_frames: float
    tx_megabits: float
    burst: float
    drops: int


class QueueTotals(msgspec.Struct, kw_only=True):
    """What one queue pair did in a part of the demo; rx and tx are the guest's.

    Attributes:
        queue: its number.
        rx_frames: delivered to the guest.
        rx_bytes: of them.
        tx_frames: taken from the guest.
        tx_bytes: of them.
        kicks: notifications from the guest.
        calls: notifications to the guest.
        drops: frames not delivered, by direction and reason, as "rx tap_down".
    """

    queue: int
    rx_frames: int
    rx_bytes: int
    tx_frames: int
    tx_bytes: int
    kicks: int
    calls: int
    drops: dict[str, int]


class Meter:
    """Counts from now on.

    Args:
        segment: of a device with a worker for each queue pair.
    """

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._begin = self._read()
        self._last, self._last_time = self._begin, time.monotonic()

    def _read(self) -> tuple[Any, Any]:
        return np.array(self._segment.rings), np.array(self._segment.workers)

    def rates(self) -> list[Rates]:
        """Each pair's rates since this was last called."""
        now = time.monotonic()
        seconds, self._last_time = max(now - self._last_time, 1e-6), now
        (old_rings, old_workers), (rings, workers) = self._last, self._read()
        self._last = rings, workers
        pairs = range(self._segment.queue_pairs)
        moved = workers["burst_packets"] - old_workers["burst_packets"]
        bursts = (workers["bursts"] - old_workers["bursts"]).sum(axis=1)
        frames = (rings["packets"] - old_rings["packets"]) / seconds
        megabits = (rings["bytes"] - old_rings["bytes"]) * 8e-6 / seconds
        dropped = (rings["drops"] - self._begin[0]["drops"]).sum(axis=1)
        return [
            Rates(
                pair,
                *(float(figure[ring]) for ring in (2 * pair, 2 * pair + 1) for figure in (frames, megabits)),
                float(moved[pair] / max(bursts[pair], 1)),
                int(dropped[2 * pair] + dropped[2 * pair + 1]),
            )
            for pair in pairs
        ]

    def totals(self) -> list[QueueTotals]:
        """What each pair did since the meter was made."""
        before, rings = self._begin[0], self._read()[0]
        return [_totals(before[2 * pair :], rings[2 * pair :], pair) for pair in range(self._segment.queue_pairs)]


def _totals(before: Any, rings: Any, pair: int) -> QueueTotals:
    """Of a pair whose rings are the first two given."""
    counts = {
        name: (rings[name][:2] - before[name][:2]).tolist() for name in ("packets", "bytes", "kicks", "calls")
    }
    drops = rings["drops"][:2] - before["drops"][:2]
    return QueueTotals(
        queue=pair,
        rx_frames=counts["packets"][0],
        rx_bytes=counts["bytes"][0],
        tx_frames=counts["packets"][1],
        tx_bytes=counts["bytes"][1],
        kicks=sum(counts["kicks"]),
        calls=sum(counts["calls"]),
        drops={
            f"{direction} {reason.name.lower()}": int(count)
            for direction, row in zip(("rx", "tx"), drops, strict=True)
            for reason in DropReason
            if (count := row[reason])
        },
    )
