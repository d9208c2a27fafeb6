"""Chooses how a worker writes to its TAP queues, and keeps its io_uring."""

import os

from mpnet.jit.compile import compiled
from mpnet.jit.syscalls import clock_ns, write
from mpnet.jit.uring import NOTHING, Uring, complete, queue, submit
from mpnet.jit.uring_setup import WRITE
from mpnet.segment.layout import MAX_QUEUE_PAIRS, Engine
from mpnet.workers.state import BURST, Context
from mpnet.workers.statistics import CLOCK_MONOTONIC

ENTRIES = 2 * BURST
"""A burst's writes, but for those of superframes that are sent frame by frame."""
WORTH_NS = 50
"""What a write must gain by being queued; less is within what comparing them is off by."""
_TRIALS = 8
_PROBE_BYTES = 64


class Writer:
    """How one worker writes; ``open`` is called in the thread that serves, as the kernel wants it.

    Args:
        ctx: the worker's context; the engine in use is told in its record in the segment.
        wanted: what the device shall use.
    """

    def __init__(self, ctx: Context, wanted: Engine) -> None:
        self._ctx = ctx
        self._wanted = wanted
        self._ring: Uring | None = None

    def open(self) -> None:
        """Use what is wanted, or the faster one; without io_uring plain writes, of which control has told."""
        if self._wanted != Engine.RW:
            try:
                self._ring = Uring(ENTRIES, [-1] * MAX_QUEUE_PAIRS, [], self._ctx.uring)
            except OSError:
                self._ring = None
        if self._ring and self._wanted == Engine.AUTO and not self._gains():
            self.close()
        self._ctx.stats[0].engine = Engine.URING if self._ring else Engine.RW

    def set_queue(self, pair: int, tap_fd: int) -> None:
        """Write a queue pair's frames to a TAP queue; -1 lets go of the one it had."""
        if self._ring:
            self._ring.set_file(pair, tap_fd)

    def close(self) -> None:
        """Give the ring back, in the thread that opened it."""
        if self._ring:
            # The kernel would let go of the TAP queues only some time after the ring is closed.
            self._ring.forget_files()
            self._ring.close()
            self._ring = None

    def _gains(self) -> bool:
        """Whether queued writes are faster: that depends on what a system call costs on this machine."""
        fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            self.set_queue(0, fd)
            gains = min(probe_plain(self._ctx, fd) for _ in range(_TRIALS)) - min(
                probe_queued(self._ctx) for _ in range(_TRIALS)
            )
            self.set_queue(0, -1)
        finally:
            os.close(fd)
        return gains > WORTH_NS * BURST


@compiled
def probe_plain(ctx: Context, fd: int) -> int:
    """Nanoseconds that a burst of small writes takes, one by one."""
    worker = ctx.worker[0]
    began = clock_ns(CLOCK_MONOTONIC, worker.timespec)
    for _ in range(BURST):
        write(fd, worker.bounce, _PROBE_BYTES)
    return clock_ns(CLOCK_MONOTONIC, worker.timespec) - began


@compiled
def probe_queued(ctx: Context) -> int:
    """Nanoseconds that the same writes take through the ring, to its file 0."""
    worker = ctx.worker[0]
    began = clock_ns(CLOCK_MONOTONIC, worker.timespec)
    for number in range(BURST):
        queue(ctx.uring, WRITE, 0, worker.bounce, _PROBE_BYTES, number)
    submit(ctx.uring, BURST, BURST)
    while complete(ctx.uring) != NOTHING:
        pass
    return clock_ns(CLOCK_MONOTONIC, worker.timespec) - began
