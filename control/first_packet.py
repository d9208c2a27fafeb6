"""How long it took from the start of the control process to a guest and to the first packet served."""

import time
from typing import Any

import psutil

from mpnet.segment.segment import Segment


def process_start_ns() -> int:
    """When this process started, on the monotonic clock; exact to a hundredth of a second, as Linux counts."""
    age_ns = time.time_ns() - int(psutil.Process().create_time() * 1e9)
    return time.monotonic_ns() - age_ns


def start_to_first_packet(segment: Segment, start_ns: int) -> float | None:
    """Seconds from ``start_ns``, on the monotonic clock, to the first packet of any worker; None before it."""
    moments: list[Any] = [record.first_packet_ns for record in segment.workers if record.first_packet_ns]
    return (int(min(moments)) - start_ns) / 1e9 if moments else None


def start_to_first_ring(first_ring_ns: int, start_ns: int) -> float | None:
    """Seconds from ``start_ns`` to a guest's first ring, so long as mpnet waited for it; None before it."""
    return (first_ring_ns - start_ns) / 1e9 if first_ring_ns else None
