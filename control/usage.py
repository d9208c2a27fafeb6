"""What workers use of the machine: processor, memory, context switches; what counts up outlives them."""

import os
import re
import threading
from dataclasses import dataclass, field
from typing import NamedTuple

from mpnet.segment.segment import Segment

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SWITCHES = re.compile(rb"\nvoluntary_ctxt_switches:\s*(\d+)\nnonvoluntary_ctxt_switches:\s*(\d+)")
_USER, _SYSTEM, _START = 11, 12, 19
"""Places in a process's stat behind its name (proc(5))."""
_FILE_BYTES = 1 << 16
"""More than any of these files has."""
_RESIDENT, _SHARED = 1, 2
"""Places in its statm."""


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
        process: its files in /proc; None where there is none.
        activity: what it had done when last seen.
    """

    ended: Usage = field(default_factory=Usage)
    current: Usage = field(default_factory=Usage)
    key: tuple[int, int] = (0, 0)
    process: "_Process | None" = None
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
            seen = slot.process.usage()
            slot.current = seen or slot.current._replace(anonymous_bytes=0, shared_bytes=0, alive=False)
        return slot.current.after(slot.ended)


class _Process:
    """A process's files in /proc, which a later process of the same number does not pass off as its own.

    psutil, which has all of this too, takes more than twice the time: with 64 workers two milliseconds a scrape.
    None of these files holds the process up meanwhile, as those about its mappings would.

    Args:
        pid: of a process.

    Raises:
        OSError: there is none.
    """

    def __init__(self, pid: int) -> None:
        self._folder = f"/proc/{pid}/"
        self._start = self._stat()[_START]

    def usage(self) -> Usage | None:
        """What it has used; None once it has ended."""
        try:
            stat, status, memory = self._stat(), self._read("status"), self._read("statm").split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        switches = _SWITCHES.search(status)
        if stat[_START] != self._start or switches is None:
            return None
        resident, shared = (int(memory[place]) * _PAGE_BYTES for place in (_RESIDENT, _SHARED))
        return Usage(
            user=int(stat[_USER]) * _TICK,
            system=int(stat[_SYSTEM]) * _TICK,
            voluntary=int(switches[1]),
            involuntary=int(switches[2]),
            anonymous_bytes=resident - shared,
            shared_bytes=shared,
            alive=True,
        )

    def _stat(self) -> list[bytes]:
        # The name, in parentheses, may hold anything.
        return self._read("stat").rpartition(b") ")[2].split()

    def _read(self, name: str) -> bytes:
        fd = os.open(self._folder + name, os.O_RDONLY)
        try:
            return os.read(fd, _FILE_BYTES)
        finally:
            os.close(fd)


def _find(pid: int) -> _Process | None:
    try:
        return _Process(pid) if pid else None
    except OSError:
        return None
