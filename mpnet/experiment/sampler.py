"""Counters of a device over the time of a trial, read from its shared memory and from the kernel."""

import threading
import time
from types import TracebackType
from typing import Any, Self

import psutil

from mpnet.experiment.record import Series
from mpnet.segment.segment import Segment

_RING_COUNTERS = ("packets", "bytes", "kicks", "calls", "calls_suppressed")
_SAMPLES = 20
_SHORTEST = 0.05
"""Seconds between two samples at least: reading them takes part of a millisecond from the driver."""

_Counts = dict[str, list[float]]
"""For each counter a value for each queue pair, or worker."""


class Sampler:
    """Reads from a thread of its own while its block lasts, some twenty times.

    Args:
        segment: the device's shared memory.
        seconds: how long the block will last, about.
    """

    def __init__(self, segment: Segment, seconds: float) -> None:
        self._segment = segment
        self._interval = max(seconds / _SAMPLES, _SHORTEST)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._processes = {int(pid): psutil.Process(int(pid)) for pid in segment.workers.pid if pid}
        self._samples: list[tuple[float, _Counts, _Counts]] = []

    def __enter__(self) -> Self:
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._over.wait(self._interval):
            self._look()

    def _look(self) -> None:
        # Worker by worker: a pid that changed is another process, and has no history here.
        self._samples.append((time.monotonic(), _queues(self._segment), self._workers()))

    def _workers(self) -> _Counts:
        records = self._segment.workers
        used = [record for record in records if record.start_ns]
        counts: _Counts = {
            "bursts": [float(record.bursts.sum()) for record in used],
            "packets": [float(record.burst_packets) for record in used],
            "wakeups": [float(record.wakeups) for record in used],
            "restarts": [float(record.restarts.sum()) for record in used],
        }
        usage = [self._usage(int(record.pid)) for record in used]
        for place, name in enumerate(("user_seconds", "system_seconds", "switches")):
            counts[name] = [each[place] for each in usage]
        return counts

    def _usage(self, pid: int) -> tuple[float, float, float]:
        """User and system seconds and context switches of a process; zeros where it is gone."""
        try:
            if pid not in self._processes:
                self._processes[pid] = psutil.Process(pid)
            process = self._processes[pid]
            times, switches = process.cpu_times(), process.num_ctx_switches()
        except psutil.Error:
            return 0.0, 0.0, 0.0
        return times.user, times.system, float(switches.voluntary + switches.involuntary)

    def series(self) -> Series:
        """All samples, counted from the first."""
        started, first_queues, first_workers = self._samples[0]
        return Series(
            seconds=[round(when - started, 4) for when, _, _ in self._samples],
            queues=_since(first_queues, [queues for _, queues, _ in self._samples]),
            workers=_since(first_workers, [workers for _, _, workers in self._samples]),
        )


def totals(series: Series) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """What each queue pair and each worker counted in all."""
    return _last(series.queues), _last(series.workers)


def _last(counters: dict[str, list[list[float]]]) -> list[dict[str, float]]:
    many = len(next(iter(counters.values()), []))
    return [{name: values[number][-1] for name, values in counters.items()} for number in range(many)]


def _queues(segment: Segment) -> _Counts:
    rings = segment.rings[: 2 * segment.queue_pairs]
    counts: _Counts = {}
    for direction, first in (("rx", 0), ("tx", 1)):
        own = rings[first::2]
        for name in _RING_COUNTERS:
            counts[f"{direction}_{name}"] = [float(value) for value in own[name]]
        counts[f"{direction}_drops"] = [float(value) for value in own.drops.sum(axis=1)]
    counts["tx_coalesced"] = [float(value) for value in rings[1::2].coalesced]
    counts["rx_segmented"] = [float(value) for value in rings[0::2].segmented]
    return counts


def _since(first: _Counts, samples: list[_Counts]) -> dict[str, list[list[float]]]:
    """By counter, for each queue pair or worker its values over time, less the first."""
    found: dict[str, Any] = {}
    for name, starts in first.items():
        found[name] = [
            [round(sample[name][number] - start, 3) for sample in samples if number < len(sample[name])]
            for number, start in enumerate(starts)
        ]
    return found
