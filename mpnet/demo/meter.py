"""Rates and totals of a device's queue pairs, read from its shared memory."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpnet.demo.summary import RingTotals
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
                queue=pair,
                rx_frames=float(frames[2 * pair]),
                rx_megabits=float(megabits[2 * pair]),
                tx_frames=float(frames[2 * pair + 1]),
                tx_megabits=float(megabits[2 * pair + 1]),
                burst=float(moved[pair] / max(bursts[pair], 1)),
                drops=int(dropped[2 * pair] + dropped[2 * pair + 1]),
            )
            for pair in pairs
        ]

    def totals(self) -> list[RingTotals]:
        """What each rx and tx virtqueue did since the meter was made."""
        before, rings = self._begin[0], self._read()[0]
        return [_totals(before[ring], rings[ring], ring) for ring in range(2 * self._segment.queue_pairs)]


def _totals(before: Any, record: Any, ring: int) -> RingTotals:
    dropped = record["drops"] - before["drops"]
    return RingTotals(
        queue=ring // 2,
        direction=("rx", "tx")[ring % 2],
        frames=int(record["packets"] - before["packets"]),
        bytes=int(record["bytes"] - before["bytes"]),
        kicks=int(record["kicks"] - before["kicks"]),
        calls=int(record["calls"] - before["calls"]),
        drops={reason.name.lower(): int(dropped[reason]) for reason in DropReason if dropped[reason]},
    )
