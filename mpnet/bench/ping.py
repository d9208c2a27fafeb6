"""Ping-pong of a guest with the host's kernel: one frame under way, each round trip timed.

The kernel answers an ICMP echo request while the device writes it to the TAP, so that no third process is timed.
"""

import ipaddress
import select
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mpnet.bench.bed import GUEST_MAC, Wire
from mpnet.bench.case import Case
from mpnet.bench.pool import Pool, make_pool, refill
from mpnet.bench.system import Device, Turn
from mpnet.errors import MpnetError
from mpnet.guest.checksum import ones_complement_sum
from mpnet.guest.virtqueue import (
    BROKEN,
    Virtqueue,
    add_one,
    is_returned,
    notify,
    request_call,
    suppress_calls,
    take,
)
from mpnet.jit.compile import compiled
from mpnet.jit.syscalls import clock_ns, epoll_wait, read

_CLOCK_MONOTONIC = 1
_MOST = 1 << 20
_PAYLOAD_BYTES = 22
_SLEEP_MS = 100
_PATIENCE_NS = 1_000_000_000
_ICMP, _ECHO_REQUEST = 1, 8

STATE = np.dtype(
    [
        ("buffer", "i8"),  # guest address of header and frame
        ("length", "i8"),
        ("epoll_fd", "i8"),
        ("call_fd", "i8"),  # -1: poll
        ("scratch", "i8", (8,)),
        ("scratch_at", "i8"),
    ]
)


class _Pinger(NamedTuple):
    """What the compiled loop works on; ``state`` is one record of ``STATE``, shape ``(1,)``."""

    rx: Virtqueue
    tx: Virtqueue
    pool: Pool
    state: Any


def echo_request(wire: Wire) -> bytes:
    """A frame of 64 bytes from the guest that asks the host to answer (RFC 792)."""
    icmp = struct.pack(">BBHHH", _ECHO_REQUEST, 0, 0, 1, 1) + bytes(_PAYLOAD_BYTES)
    icmp = icmp[:2] + (ones_complement_sum(icmp) ^ 0xFFFF).to_bytes(2, "big") + icmp[4:]
    addresses = ipaddress.ip_address(wire.guest).packed + ipaddress.ip_address(wire.host).packed
    fixed = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(icmp), 0, 0x4000, 64, _ICMP, 0)
    checksum = ones_complement_sum(fixed + addresses) ^ 0xFFFF
    return wire.mac + GUEST_MAC + b"\x08\x00" + fixed[:10] + checksum.to_bytes(2, "big") + addresses + icmp


def percentiles(nanoseconds: NDArray[np.int64]) -> dict[str, float]:
    """Microseconds that so many round trips took at most."""
    return {f"p{share:g}": float(np.percentile(nanoseconds, share)) / 1000 for share in (50, 99, 99.9)}


Pings: TypeAlias = Callable[[NDArray[np.int64], float], int]
"""Ping for so many seconds, or as often as the array is long; each trip's nanoseconds go there. Gives how many.

Raises ``MpnetError`` where one is not answered.
"""


@contextmanager
def pings(device: Device, *, polled: bool) -> Iterator[Pings]:
    """A guest that pings the host through a device's first queue pair; ``polled`` where it does not sleep."""
    pair, pool = device.pairs[0], make_pool(device.pairs[0])
    frame = bytes(pair.header_bytes) + echo_request(device.wire)
    state = np.zeros(1, STATE).view(np.recarray)
    record = state[0]
    record.buffer, record.length = pair.tx.memory.allocate(len(frame)), len(frame)
    pair.tx.memory.write(int(record.buffer), frame)
    record.scratch_at = state.ctypes.data + STATE.fields["scratch"][1]  # type: ignore[index]  # a record has fields
    call_fd = None if polled else pair.rx.ring.call_fd

    def run(times: NDArray[np.int64], seconds: float) -> int:
        work = _Pinger(pair.rx.virtqueue, pair.tx.virtqueue, pool, state)
        count = ping(work, times, int(seconds * 1e9))
        if count <= 0:
            raise MpnetError(
                "a ping from the guest was not answered within a second", "is the TAP's host address up?"
            )
        return count

    with select.epoll() as epoll:
        record.epoll_fd, record.call_fd = epoll.fileno(), -1 if call_fd is None else call_fd
        if call_fd is not None:
            epoll.register(call_fd, select.EPOLLIN)
        yield run


@contextmanager
def ping_pong(device: Device, case: Case) -> Iterator[Turn]:
    """What a turn on this device is."""
    times = np.zeros(_MOST, np.int64)
    with pings(device, polled=case.polled) as run:
        yield lambda seconds: percentiles(times[: run(times, seconds)])


@compiled
def ping(pinger: _Pinger, times: NDArray[np.int64], nanoseconds: int) -> int:
    """Ping for so long; nanoseconds of each round trip go to ``times``. How many, or -1 where one was lost."""
    work = pinger.state[0]
    tx = pinger.tx
    refill(pinger.rx, pinger.pool)
    count = 0
    now = clock_ns(_CLOCK_MONOTONIC, work.scratch_at)
    end = now + nanoseconds
    while now < end and count < len(times):
        while take(tx)[0] >= 0:
            pass
        started = clock_ns(_CLOCK_MONOTONIC, work.scratch_at)
        add_one(tx, work.buffer, work.length, 0)
        suppress_calls(tx)
        notify(tx)
        if not _await(pinger, started):
            return -1
        now = clock_ns(_CLOCK_MONOTONIC, work.scratch_at)
        times[count] = now - started
        count += 1
        if refill(pinger.rx, pinger.pool) == BROKEN:
            return -1
    return count


@compiled
def _await(pinger: _Pinger, started: int) -> bool:
    """Wait until the answer is there; False where none came within a second."""
    work = pinger.state[0]
    rx = pinger.rx
    while not request_call(rx) if work.call_fd >= 0 else not is_returned(rx):
        if work.call_fd >= 0:
            epoll_wait(work.epoll_fd, work.scratch_at + 16, 1, _SLEEP_MS)
            read(work.call_fd, work.scratch_at, 8)
        if clock_ns(_CLOCK_MONOTONIC, work.scratch_at) - started > _PATIENCE_NS:
            return False
    return True
