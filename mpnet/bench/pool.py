"""The receiving half of a driver that looks at no byte: it gives every buffer back at once."""

from typing import Any, NamedTuple

import numpy as np

from mpnet.guest.driver import QueuePair
from mpnet.guest.virtqueue import BROKEN, Virtqueue, add_one, notify, suppress_calls, take
from mpnet.jit.compile import compiled
from mpnet.jit.memory import load_u16
from mpnet.jit.syscalls import clock_ns
from mpnet.virtio import net_header
from mpnet.virtio.split_ring import DESC_F_WRITE

BUFFER_BYTES = 2048
_BURST = 64
_CLOCK_MONOTONIC = 1
_PATIENCE_NS = 20_000_000

STATE = np.dtype(
    [
        ("buffers", "i8"),  # guest address of the first descriptor's buffer
        ("host_buffers", "i8"),
        ("stride", "i8"),
        ("missing", "i8"),  # buffers of the frame under way still to come
        ("header_bytes", "i8"),
        ("around", "i8"),  # bytes of a frame that are not payload, with the virtio-net header
        ("payload", "i8"),  # bytes
        ("patience", "i8"),  # nanoseconds after which what has not come is taken for lost
        ("nanoseconds", "i8"),  # of the last run
        ("timespec", "i8", (2,)),
        ("timespec_at", "i8"),
    ]
)


class Pool(NamedTuple):
    """Buffers of an rx queue; ``state`` is one record of ``STATE``, shape ``(1,)``."""

    state: Any


def make_pool(pair: QueuePair, headers: int = 0) -> Pool:
    """A buffer of 2 KiB for each descriptor of the rx queue; MRG_RXBUF must have been negotiated.

    Args:
        pair: whose rx queue.
        headers: bytes of each frame that are not payload.
    """
    size = pair.rx.ring.size
    state = np.zeros(1, STATE).view(np.recarray)
    record = state[0]
    record.buffers = pair.rx.memory.allocate(BUFFER_BYTES * size, BUFFER_BYTES)
    record.host_buffers = pair.rx.memory.host_address(int(record.buffers), BUFFER_BYTES * size)
    record.stride, record.around = BUFFER_BYTES, pair.header_bytes + headers
    record.patience = _PATIENCE_NS
    record.timespec_at = state.ctypes.data + STATE.fields["timespec"][1]  # type: ignore[index]  # a record has fields
    return Pool(state)


@compiled
def refill(queue: Virtqueue, pool: Pool) -> int:
    """Take up to a burst of buffers, count payload, give all free buffers; how many, or ``BROKEN``."""
    count = collect(queue, pool)
    if count != BROKEN:
        _give(queue, pool)
    return count


@compiled
def _give(queue: Virtqueue, pool: Pool) -> None:
    """Give the device all free buffers."""
    ring = queue.state[0]
    state = pool.state[0]
    if ring.free_count > 0:
        suppress_calls(queue)
        while ring.free_count > 0:
            add_one(queue, state.buffers + ring.free_head * state.stride, state.stride, DESC_F_WRITE)
        notify(queue)


@compiled
def collect(queue: Virtqueue, pool: Pool) -> int:
    """Take up to a burst of buffers and count payload; how many, or ``BROKEN``."""
    state = pool.state[0]
    count = 0
    while count < _BURST:
        head, length = take(queue)
        if head == BROKEN or length > state.stride:
            return BROKEN
        if head < 0:
            break
        if state.missing == 0:
            state.missing = max(1, load_u16(state.host_buffers + head * state.stride + net_header.NUM_BUFFERS))
            length -= state.around
        state.missing -= 1
        state.payload += length
        count += 1
    return count


@compiled
def drain(queue: Virtqueue, pool: Pool, payload: int) -> int:
    """Receive in the guest until there have been ``payload`` bytes in all, or nothing comes any more.

    Counted is what comes behind the device's first burst, from when that was shown: before that, the device has
    to come to its processor, which is some tens of microseconds and no part of what a frame costs it.

    Returns how many bytes that is, in ``state.nanoseconds`` up to the last, or ``BROKEN``.
    """
    state = pool.state[0]
    found = 1
    while found > 0:
        found = collect(queue, pool)
    asked = started = clock_ns(_CLOCK_MONOTONIC, state.timespec_at)
    while found == 0 and started - asked < state.patience:
        found = refill(queue, pool)
        started = clock_ns(_CLOCK_MONOTONIC, state.timespec_at)
    while found == _BURST:
        found = refill(queue, pool)
    before = state.payload
    last = now = started
    while found != BROKEN and state.payload < payload and now - last < state.patience:
        found = refill(queue, pool)
        now = clock_ns(_CLOCK_MONOTONIC, state.timespec_at)
        if found > 0:
            last = now
    state.nanoseconds = last - started
    return BROKEN if found == BROKEN else state.payload - before
