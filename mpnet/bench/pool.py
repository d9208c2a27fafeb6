"""The receiving half of a driver that looks at no byte: it gives every buffer back at once."""

from typing import Any, NamedTuple

import numpy as np

from mpnet.bench.generator import Generator, begin, generate
from mpnet.guest.driver import QueuePair
from mpnet.guest.virtqueue import BROKEN, Virtqueue, add_one, notify, suppress_calls, take
from mpnet.jit.compile import compiled
from mpnet.jit.memory import load_u16
from mpnet.jit.syscalls import clock_ns
from mpnet.virtio import net_header
from mpnet.virtio.split_ring import DESC_F_WRITE

_BUFFER_BYTES = 2048
_BURST = 64
_CLOCK_MONOTONIC = 1
_CLOCK_EVERY = 64

STATE = np.dtype(
    [
        ("buffers", "i8"),  # guest address of the first descriptor's buffer
        ("host_buffers", "i8"),
        ("stride", "i8"),
        ("missing", "i8"),  # buffers of the frame under way still to come
        ("header_bytes", "i8"),
        ("frames", "i8"),
        ("bytes", "i8"),  # without virtio-net headers
        ("nanoseconds", "i8"),  # of the last run
        ("timespec", "i8", (2,)),
        ("timespec_at", "i8"),
    ]
)


class Pool(NamedTuple):
    """Buffers of an rx queue; ``state`` is one record of ``STATE``, shape ``(1,)``."""

    state: Any


def make_pool(pair: QueuePair) -> Pool:
    """A buffer of 2 KiB for each descriptor of the rx queue; MRG_RXBUF must have been negotiated."""
    size = pair.rx.ring.size
    state = np.zeros(1, STATE).view(np.recarray)
    record = state[0]
    record.buffers = pair.rx.memory.allocate(_BUFFER_BYTES * size, _BUFFER_BYTES)
    record.host_buffers = pair.rx.memory.host_address(int(record.buffers), _BUFFER_BYTES * size)
    record.stride, record.header_bytes = _BUFFER_BYTES, pair.header_bytes
    record.timespec_at = state.ctypes.data + STATE.fields["timespec"][1]  # type: ignore[index]  # a record has fields
    return Pool(state)


@compiled
def refill(queue: Virtqueue, pool: Pool) -> int:
    """Take up to a burst of buffers, count frames and bytes, give all free buffers; how many, or ``BROKEN``."""
    ring = queue.state[0]
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
            state.frames += 1
            length -= state.header_bytes
        state.missing -= 1
        state.bytes += length
        count += 1
    if ring.free_count > 0:
        suppress_calls(queue)
        while ring.free_count > 0:
            add_one(queue, state.buffers + ring.free_head * state.stride, state.stride, DESC_F_WRITE)
        notify(queue)
    return count


@compiled
def exchange(queue: Virtqueue, pool: Pool, sender: Generator, nanoseconds: int) -> bool:
    """Send from the host and receive in the guest for so long; False where the device broke the queue."""
    state = pool.state[0]
    begin(sender, state.frames)
    started = clock_ns(_CLOCK_MONOTONIC, state.timespec_at)
    now = started
    turns = 0
    while now - started < nanoseconds:
        if refill(queue, pool) == BROKEN:
            return False
        generate(sender, state.frames)
        turns += 1
        if turns % _CLOCK_EVERY == 0:
            now = clock_ns(_CLOCK_MONOTONIC, state.timespec_at)
    state.nanoseconds = now - started
    return True
