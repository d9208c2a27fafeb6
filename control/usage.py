"""What workers use of the machine: processor, memory, context switches; what counts up outlives them."""

import threading
from dataclasses import dataclass, field
from typing import NamedTuple

import psutil

from mpnet.segment.segment import Segment


class Usage(NamedTuple):
    """What the workers of one slot have used, over restarts, and what the present one occupies.

    Attributes:
        user: seconds on a processor in the worker's own code.
        system: seconds in the kernel's.
        voluntary: times it gave its processor up, as to sleep.
        involuntary: times its processor was taken away.
        anonymous_bytes: of the present worker: its own memory, with what it shares with its siblings by fork.
        shared_bytes: of the present worker: guest memory, the segment, libraries.
        alive: there is a present worker.
    """

    user: float = 0.0
    system: float = 0.0
    voluntary: int = 0
    involuntary: int = 0
    anonymous_bytes: int = 0
    shared_bytes: int = 0
    alive: bool = False

    def after(self, ended: "Usage") -> "Usage":
        """Add what workers that are gone have used."""
        return self._replace(
            user=self.user + ended.user,
            system=self.system + ended.system,
            voluntary=self.voluntary + ended.voluntary,
            involuntary=self.involuntary + ended.involuntary,
        )


@dataclass(slots=True)
class _Slot:
    """What one worker slot has used.

    Attributes:
        ended: the sum over processes that are gone.
        current: what the present one had used when last seen.
        key: pid and start time of the present one, as in the segment.
        process: a handle on it that a re-used pid does not deceive.
        activity: what it had done when last seen.
    """

    ended: Usage = field(default_factory=Usage)
    current: Usage = field(default_factory=Usage)
    key: tuple[int, int] = (0, 0)
    process: psutil.Process | None = None
    activity: int = -1


class Usages:
    """Adds up what the workers of each slot have used, over restarts.

    Linux forgets a process's times with the process, so a total lacks what a worker used between the last
    look and its end: ``keep_up`` is to be called now and then, whether somebody asks or not.
    """

    def __init__(self) -> None:
        self._slots: dict[tuple[str, int], _Slot] = {}
        # A scrape comes in a thread of its own.
        self._lock = threading.Lock()

    def sample(self, segment: Segment) -> list[Usage]:
        """Look at a device's workers now.

        Returns:
            By slot; what counts up never falls.
        """
        with self._lock:
            pids, starts = segment.workers.pid.tolist(), segment.workers.start_ns.tolist()
            return [
                self._sample_slot((segment.name, number), key)
                for number, key in enumerate(zip(pids, starts, strict=True))
            ]

    def keep_up(self, segment: Segment) -> None:
        """Look at those of a device's workers that did something: one that slept has used next to nothing."""
        with self._lock:
            workers = segment.workers
            columns = workers.pid, workers.start_ns, workers.wakeups + workers.burst_packets
            for number, (pid, start, activity) in enumerate(
                zip(*(each.tolist() for each in columns), strict=True)
            ):
                slot = self._slots.get((segment.name, number))
                if slot is None or (slot.key, slot.activity) != ((pid, start), activity):
                    self._sample_slot((segment.name, number), (pid, start))
                    self._slots[segment.name, number].activity = activity

    def forget(self, device: str) -> None:
        """Drop the totals of a device that is no longer served."""
        with self._lock:
            for key in [key for key in self._slots if key[0] == device]:
                del self._slots[key]

    def _sample_slot(self, name: tuple[str, int], key: tuple[int, int]) -> Usage:
        slot = self._slots.setdefault(name, _Slot())
        if key != slot.key:
            slot.ended = slot.current.after(slot.ended)
            slot.current, slot.key, slot.process = Usage(), key, _find(key[0])
        if slot.process is not None:
            seen = _read(slot.process)
            slot.current = seen or slot.current._replace(anonymous_bytes=0, shared_bytes=0, alive=False)
        return slot.current.after(slot.ended)


def _find(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid) if pid else None
    except psutil.NoSuchProcess:
        return None


def _read(process: psutil.Process) -> Usage | None:
    """Read a process's files in /proc, the cheap ones: what looks at its mappings would hold it up meanwhile."""
    try:
        with process.oneshot():
            if not process.is_running():
                return None
            times, switches, memory = process.cpu_times(), process.num_ctx_switches(), process.memory_info()
    except psutil.NoSuchProcess:
        return None
    return Usage(
        user=times.user,
        system=times.system,
        voluntary=switches.voluntary,
        involuntary=switches.involuntary,
        anonymous_bytes=memory.rss - memory.shared,
        shared_bytes=memory.shared,
        alive=True,
    )
