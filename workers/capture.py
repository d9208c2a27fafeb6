"""Frames copied for whoever captures them: see ``segment.capture``.

A ring's ``capture`` is the address of its queue pair's lane, 0 while nobody captures it. It is looked at once a
burst. The copy comes from the same translated buffers as the frame itself, so it needs no check of its own;
memory that vanishes under it is handled as everywhere, and breaks the ring when the burst ends.
"""

import mmap

import numpy as np

from mpnet.errors import MpnetError
from mpnet.jit.compile import compiled
from mpnet.jit.memory import load_acquire_i64, load_i64, store_i64, store_release_i64
from mpnet.jit.syscalls import clock_ns
from mpnet.rpc.worker import SetCapture
from mpnet.segment.capture import DATA, DROPPED, FILLER, HEAD, KEPT, RECORD_BYTES, TAIL, lane_offset
from mpnet.workers.chain import gather
from mpnet.workers.state import Context
from mpnet.workers.trace import CLOCK_REALTIME


@compiled
def capturing(ctx: Context, index: int) -> bool:
    """Whether frames of ring ``index`` are captured in the burst that begins, whose time is taken then."""
    if ctx.rings[index].capture == 0:
        return False
    ctx.worker[0].capture_ns = clock_ns(CLOCK_REALTIME, ctx.worker[0].timespec)
    return True


@compiled
def capture(ctx: Context, index: int, slot: int, total: int) -> None:
    """Copy a frame to its lane, or count that there is no room.

    Args:
        ctx: the worker's context.
        index: the ring, of which ``capturing`` was true.
        slot: the first of the buffers that hold virtio-net header and frame.
        total: bytes of both; they hold that many.
    """
    ring = ctx.rings[index]
    worker = ctx.worker[0]
    length = total - ring.header_bytes
    if length <= 0:
        return
    stored = ring.header_bytes + min(length, worker.capture_snaplen)
    need = RECORD_BYTES + (stored + 7) // 8 * 8
    lane = ring.capture
    capacity = worker.capture_bytes
    head = load_i64(lane + HEAD)
    # Where it begins is within the lane, whatever a reader wrote there; a record is shorter than half a lane.
    offset = head % capacity
    skipped = capacity - offset if capacity - offset < need else 0
    if head + skipped + need - load_acquire_i64(lane + TAIL) > capacity:
        store_i64(lane + DROPPED, load_i64(lane + DROPPED) + 1)
        return
    if skipped >= RECORD_BYTES:
        store_i64(lane + DATA + offset + 8, FILLER)
    record = lane + DATA + (head + skipped) % capacity
    store_i64(record, need)
    store_i64(record + 8, index)
    store_i64(record + 16, worker.capture_ns)
    store_i64(record + 24, length)
    store_i64(record + 32, stored)
    store_i64(record + 40, ring.header_bytes)
    gather(ctx, record + RECORD_BYTES, slot, stored)
    store_i64(lane + KEPT, load_i64(lane + KEPT) + 1)
    store_release_i64(lane + HEAD, head + skipped + need)


class Captured:
    """The capture that this worker fills, mapped."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._memory: np.ndarray[tuple[int], np.dtype[np.uint8]] | None = None

    def set(self, message: SetCapture, fd: int) -> None:
        """Capture the rings of a message into the memory of ``fd``, which the caller keeps.

        Raises:
            MpnetError: it cannot be mapped.
        """
        try:
            memory = mmap.mmap(fd, 0)
            memory.madvise(mmap.MADV_DONTDUMP)
            mapped = np.frombuffer(memory, np.uint8)
        except (OSError, ValueError) as error:
            raise MpnetError(f"cannot map the shared memory of a capture: {error}") from error
        worker = self._ctx.worker[0]
        worker.capture_bytes, worker.capture_snaplen = message.lane_bytes, message.snaplen
        for index in message.rings:
            offset = lane_offset(index // 2, message.lane_bytes)
            self._ctx.rings[index].capture = mapped.ctypes.data + offset
        self._memory = mapped

    def end(self) -> None:
        """Capture no more."""
        for ring in self._ctx.rings:
            ring.capture = 0
        self._memory = None
