"""Rates of devices, queue pairs and workers: shared memory, looked at twice.

Nothing is asked of the control process, so a device is seen as well when that is busy or dead.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import psutil

from mpnet.errors import MpnetError
from mpnet.segment.attachments import Attachments
from mpnet.segment.layout import Code, DropReason, Fault, Negotiation, RingState, name_of, workers_of
from mpnet.segment.segment import Segment, is_served


class DirectionRates(msgspec.Struct, kw_only=True):
    """One ring of a queue pair; rx and tx are the guest's.

    Attributes:
        state: a ``layout.RingState`` in lower case.
        fault: a ``layout.Fault`` in lower case.
        packets: a second.
        bits: a second, of frames without virtio-net header.
        drops: a second, for any reason.
        kicks: a second.
        calls: a second.
        ready: what the guest has ready in the ring.
        entries: of the ring.
        total_packets: since the device began.
        total_drops: since then, by ``layout.DropReason`` in lower case; those that there were.
    """

    state: str
    fault: str
    packets: float
    bits: float
    drops: float
    kicks: float
    calls: float
    ready: int
    entries: int
    total_packets: int
    total_drops: dict[str, int]


class QueueRates(msgspec.Struct, kw_only=True):
    """One queue pair.

    Attributes:
        device: whose.
        queue: its number.
        worker: slot of the worker that serves it; None while none does.
        cpu: of one processor, what that worker takes, for all its queue pairs; None while none does.
        rx: the ring to the guest.
        tx: the ring from the guest.
    """

    device: str
    queue: int
    worker: int | None
    cpu: float | None
    rx: DirectionRates
    tx: DirectionRates

    @property
    def packets(self) -> float:
        """Both directions', a second."""
        return self.rx.packets + self.tx.packets

    @property
    def drops(self) -> float:
        """Both directions', a second."""
        return self.rx.drops + self.tx.drops


class WorkerRates(msgspec.Struct, kw_only=True):
    """One worker.

    Attributes:
        device: whose.
        worker: its slot.
        pid: its process; 0 where it ended in good order.
        alive: the process is there.
        cpu: of one processor, 1.0 for all of it.
        packets: a second.
        batch: packets of a burst, on average; 0 without any.
        wakeups: a second.
        heartbeat_age: seconds since it showed that it lives.
        restarts: how often it was replaced.
        code: what it runs, a ``layout.Code`` in lower case.
        queues: queue pairs it serves.
    """

    device: str
    worker: int
    pid: int
    alive: bool
    cpu: float
    packets: float
    batch: float
    wakeups: float
    heartbeat_age: float
    restarts: int
    code: str
    queues: list[int]


class DeviceRates(msgspec.Struct, kw_only=True):
    """One device.

    Attributes:
        device: its name.
        state: a ``layout.Negotiation`` in lower case, or "orphaned": its control process is gone.
        queue_pairs: how many it has.
        enabled_pairs: how many its guest uses.
        queues: all of them.
        workers: those that serve them.
    """

    device: str
    state: str
    queue_pairs: int
    enabled_pairs: int
    queues: list[QueueRates]
    workers: list[WorkerRates]


class Snapshot(msgspec.Struct, kw_only=True):
    """All devices at one time.

    Attributes:
        time: seconds since 1970.
        seconds: that the rates are of; 0 in the first one, whose rates are 0 too.
        devices: by name.
    """

    time: float
    seconds: float
    devices: list[DeviceRates]


@dataclass(frozen=True, slots=True)
class _Counters:
    """What a device had counted when it was looked at."""

    segment: Segment
    rings: Any
    workers: Any
    cpu: dict[tuple[int, int], float]


class Sampler:
    """Looks at shared memory again and again.

    Args:
        devices: which; empty for all that there are.
    """

    def __init__(self, devices: Collection[str] = ()) -> None:
        self._attachments = Attachments(devices)
        self._before: dict[str, _Counters] = {}
        self._at = 0.0

    def require(self) -> None:
        """Refuse where there is nothing to see, as ``Attachments.require``."""
        self._attachments.require()

    @property
    def refused(self) -> dict[str, MpnetError]:
        """Why a device that is there was not in the last look."""
        return self._attachments.refused

    def sample(self) -> Snapshot:
        """Give the rates since the last call; a device that is new, or new again, has none yet."""
        now = time.monotonic()
        seconds = now - self._at if self._at else 0.0
        self._at = now
        devices, counters = [], {}
        for name, segment in sorted(self._attachments.current().items()):
            counters[name] = _read(segment)
            before = self._before.get(name)
            if before is None or before.segment is not segment:
                before = counters[name]
            devices.append(_device(name, before, counters[name], seconds))
        self._before = counters
        return Snapshot(time=time.time(), seconds=seconds, devices=devices)


def _read(segment: Segment) -> _Counters:
    # Both before the processes are looked at, which takes long: their rates are to agree.
    rings, workers = np.array(segment.rings), np.array(segment.workers[: max(1, int(segment.header.workers))])
    cpu = {_process(worker): _cpu_seconds(int(worker["pid"])) for worker in workers}
    return _Counters(segment, rings, workers, cpu)


def _process(worker: Any) -> tuple[int, int]:
    return int(worker["pid"]), int(worker["start_ns"])


def _cpu_seconds(pid: int) -> float:
    """Seconds on a processor so far; negative where there is no such process."""
    try:
        times = psutil.Process(pid).cpu_times() if pid else None
    except (psutil.Error, ValueError):  # the number is a worker's word
        return -1.0
    return times.user + times.system if times else -1.0


def _device(name: str, before: _Counters, after: _Counters, seconds: float) -> DeviceRates:
    header = after.segment.header
    pairs, workers = after.segment.queue_pairs, len(after.workers)
    owners = workers_of(after.rings)
    rates = [_worker(name, slot, before, after, seconds) for slot in range(workers)]
    queues = [
        QueueRates(
            device=name,
            queue=pair,
            worker=owners[pair],
            cpu=_cpu_of(rates, owners[pair]),
            rx=_direction(before.rings[2 * pair], after.rings[2 * pair], seconds),
            tx=_direction(before.rings[2 * pair + 1], after.rings[2 * pair + 1], seconds),
        )
        for pair in range(pairs)
    ]
    served = is_served(header)
    return DeviceRates(
        device=name,
        state=name_of(Negotiation, int(header.negotiation)) if served else "orphaned",
        queue_pairs=pairs,
        enabled_pairs=int(header.enabled_pairs),
        queues=queues,
        workers=rates,
    )


def _cpu_of(workers: list[WorkerRates], slot: int | None) -> float | None:
    return next((worker.cpu for worker in workers if worker.worker == slot), None)


def _per_second(before: Any, after: Any, seconds: float) -> float:
    return (int(after) - int(before)) / seconds if seconds else 0.0


def _direction(before: Any, after: Any, seconds: float) -> DirectionRates:
    def rate(name: str) -> float:
        return _per_second(before[name], after[name], seconds)

    return DirectionRates(
        state=name_of(RingState, int(after["state"])),
        fault=name_of(Fault, int(after["fault"])),
        packets=rate("packets"),
        bits=8 * rate("bytes"),
        drops=_per_second(before["drops"].sum(), after["drops"].sum(), seconds),
        kicks=rate("kicks"),
        calls=rate("calls"),
        ready=int(after["available_entries"]),
        entries=int(after["entries"]),
        total_packets=int(after["packets"]),
        total_drops={
            reason.name.lower(): int(after["drops"][reason]) for reason in DropReason if after["drops"][reason]
        },
    )


def _worker(name: str, slot: int, before: _Counters, after: _Counters, seconds: float) -> WorkerRates:
    new = after.workers[slot]
    old = before.workers[slot] if slot < len(before.workers) else new
    process = _process(new)
    used = after.cpu[process]
    bursts = int(new["bursts"].sum()) - int(old["bursts"].sum())
    packets = int(new["burst_packets"]) - int(old["burst_packets"])
    return WorkerRates(
        device=name,
        worker=slot,
        pid=process[0],
        alive=used >= 0,
        cpu=max(0.0, _per_second_float(before.cpu.get(process, used), used, seconds)),
        packets=packets / seconds if seconds else 0.0,
        batch=packets / bursts if bursts else 0.0,
        wakeups=_per_second(old["wakeups"], new["wakeups"], seconds),
        heartbeat_age=max(0.0, time.monotonic() - int(new["heartbeat_ns"]) / 1e9),
        restarts=int(new["restarts"].sum()),
        code=name_of(Code, int(new["code"])),
        queues=[pair for pair, owner in enumerate(workers_of(after.rings)) if owner == slot],
    )


def _per_second_float(before: float, after: float, seconds: float) -> float:
    return (after - before) / seconds if seconds else 0.0
