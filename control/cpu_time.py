"""Processor time of workers, kept beyond their end."""

import threading
from dataclasses import dataclass, field
from typing import NamedTuple

import psutil

from mpnet.segment.segment import Segment


class CpuTime(NamedTuple):
    """Seconds on a processor."""

    user: float = 0.0
    system: float = 0.0


@dataclass(slots=True)
class _Slot:
    """What one worker slot has used.

    Attributes:
        ended: the sum over processes that are gone.
        current: what the present one had used when last seen.
        key: pid and start time of the present one, as in the segment.
        process: a handle on it that a re-used pid does not deceive.
    """

    ended: CpuTime = field(default_factory=CpuTime)
    current: CpuTime = field(default_factory=CpuTime)
    key: tuple[int, int] = (0, 0)
    process: psutil.Process | None = None


class CpuTimes:
    """Adds up what the workers of each slot have used, over restarts.

    Linux forgets a process's times with the process, so a total lacks what a worker used between the last
    ``sample`` and its end: the supervisor samples at each look at the heartbeats.
    """

    def __init__(self) -> None:
        self._slots: dict[tuple[str, int], _Slot] = {}
        self._lock = threading.Lock()  # scrapes have a thread each

    def sample(self, segment: Segment) -> list[CpuTime]:
        """Read the times of a device's workers now.

        Returns:
            The totals by slot; they never fall.
        """
        with self._lock:
            return [self._sample_slot(segment, slot) for slot in range(segment.queue_pairs)]

    def forget(self, device: str) -> None:
        """Drop the totals of a device that is no longer served."""
        with self._lock:
            for key in [key for key in self._slots if key[0] == device]:
                del self._slots[key]

    def _sample_slot(self, segment: Segment, number: int) -> CpuTime:
        slot = self._slots.setdefault((segment.name, number), _Slot())
        worker = segment.workers[number]
        key = (int(worker.pid), int(worker.start_ns))
        if key != slot.key:
            slot.ended = _sum(slot.ended, slot.current)
            slot.current, slot.key, slot.process = CpuTime(), key, _find(key[0])
        if slot.process is not None:
            slot.current = _read(slot.process) or slot.current
        return _sum(slot.ended, slot.current)


def _find(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid) if pid else None
    except psutil.NoSuchProcess:
        return None


def _read(process: psutil.Process) -> CpuTime | None:
    try:
        times = process.cpu_times() if process.is_running() else None
    except psutil.NoSuchProcess:
        return None
    return CpuTime(times.user, times.system) if times else None


def _sum(first: CpuTime, second: CpuTime) -> CpuTime:
    return CpuTime(first.user + second.user, first.system + second.system)
