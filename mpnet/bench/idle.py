"""A device with many queue pairs and no traffic: what it takes, and how soon it is back when a worker dies."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import psutil

from mpnet.bench.case import Case
from mpnet.bench.scale import processor_ns
from mpnet.bench.system import Device, Turn
from mpnet.errors import MpnetError
from mpnet.guest.driver import QueuePair
from mpnet.guest.virtqueue import add_one, notify

_MIB = 1 << 20
_SETTLE_SECONDS = 0.5
_RECOVERY_SECONDS = 30.0
_LOOK_SECONDS = 0.0002


@contextmanager
def idle(device: Device, case: Case) -> Iterator[Turn]:
    """What a turn on this device is; each kills another worker, for one that dies often is replaced late."""
    frame = case.stream(device.wire).frame()
    victims = iter(range(len(device.pairs)))

    def turn(seconds: float) -> dict[str, float]:
        number = next(victims, 0)
        family = device.family()
        recovery = _recovery(device.pairs[number], family[number], frame)
        time.sleep(_SETTLE_SECONDS)
        family = device.family()
        before, started = processor_ns(family), time.monotonic()
        time.sleep(seconds)
        share = (processor_ns(family) - before) / 1e9 / (time.monotonic() - started)
        memory = median(psutil.Process(pid).memory_full_info().uss for pid in family[1 : len(device.pairs)])
        return {"cpu": 100 * share, "memory": memory / _MIB, "recovery": 1000 * recovery}

    yield turn


def _recovery(pair: QueuePair, worker: int, frame: bytes) -> float:
    """Kill a worker and send a frame; seconds until it has been returned by the next one."""
    contents = bytes(pair.header_bytes) + frame
    buffer = pair.tx.memory.allocate(len(contents))
    pair.tx.memory.write(buffer, contents)
    os.kill(worker, signal.SIGKILL)
    started = time.monotonic()
    add_one(pair.tx.virtqueue, buffer, len(contents), 0)
    notify(pair.tx.virtqueue)
    while pair.tx.take() is None:
        if time.monotonic() - started > _RECOVERY_SECONDS:
            raise MpnetError(f"a worker that was killed is not replaced within {_RECOVERY_SECONDS:.0f} s")
        time.sleep(_LOOK_SECONDS)
    return time.monotonic() - started
