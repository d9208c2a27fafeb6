"""What a worker waits for: one epoll set over kicks, TAP queues, messages and signals."""

import ctypes
import errno
import os
import select

import numpy as np

from mpnet.jit.compile import compiled
from mpnet.jit.memory import store_i64, store_u32
from mpnet.jit.syscalls import epoll_ctl
from mpnet.jit.system_calls import Call
from mpnet.workers.state import ATTENTION, EPOLL_DATA_OFFSET, EPOLL_EVENT_BYTES, FRAMES, KICK, TAP, Context

_CTL_ADD = 1
_CTL_DEL = 2
SYSTEM_CALLS = (Call("epoll_ctl"), Call("close"))
_EVENTS = select.EPOLLIN | select.EPOLLET
_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """The epoll set behind ``ctx.worker.epoll_fd``, edge-triggered throughout.

    An event carries the kind and the ring that compiled code looks at, where ``select.epoll`` would put the
    fd; so the set is changed through the C library.
    """

    def __init__(self, ctx: Context) -> None:
        self._epoll = select.epoll()
        ctx.worker[0].epoll_fd = self._epoll.fileno()

    def attention(self, fd: int) -> None:
        """Return to Python when there is something to read."""
        self._control(_CTL_ADD, fd, ATTENTION)

    def kick(self, fd: int, ring: int) -> None:
        """Count a kick and serve the ring when its eventfd is written."""
        self._control(_CTL_ADD, fd, KICK | ring << 8)

    def tap(self, fd: int, ring: int) -> None:
        """Serve the rx ring when its TAP queue has a frame.

        A queue that is detached from its TAP does not even take the waiter, so an earlier registration may be
        deaf: it is made anew.
        """
        self.forget(fd)
        self._control(_CTL_ADD, fd, FRAMES | ring << 8)

    def forget(self, fd: int) -> None:
        """Watch an fd no more; one that is not watched is left alone.

        Closing it would not do: control holds a duplicate, and the set keeps what is open anywhere.
        """
        if fd >= 0:
            _libc.epoll_ctl(self._epoll.fileno(), _CTL_DEL, int(fd), None)

    def close(self) -> None:
        """Close the set."""
        self._epoll.close()

    def _control(self, operation: int, fd: int, data: int) -> None:
        event = np.zeros(EPOLL_EVENT_BYTES, np.uint8)
        event[:4].view(np.uint32)[0] = _EVENTS
        event[EPOLL_DATA_OFFSET:].view(np.int64)[0] = data
        if _libc.epoll_ctl(self._epoll.fileno(), operation, int(fd), ctypes.c_void_p(event.ctypes.data)) < 0:
            error = ctypes.get_errno()
            raise OSError(error, f"epoll_ctl: {os.strerror(error)}")


@compiled
def forget_taps(ctx: Context) -> None:
    """Watch no TAP queue: to tell the set of each frame takes the kernel some 0.1 µs."""
    worker = ctx.worker[0]
    for i in range(worker.pairs):
        ring = ctx.rings[2 * ctx.pairs[i]]
        if ring.backend == TAP:
            epoll_ctl(worker.epoll_fd, _CTL_DEL, ring.tap_fd, worker.events)


@compiled
def watch_taps(ctx: Context) -> bool:
    """Watch the TAP queues again; False where the kernel cannot.

    An event comes at once for one that has frames.
    """
    worker = ctx.worker[0]
    done = True
    for i in range(worker.pairs):
        index = 2 * ctx.pairs[i]
        ring = ctx.rings[index]
        if ring.backend == TAP and ring.started and ring.enabled:
            store_u32(worker.events, _EVENTS)
            store_i64(worker.events + EPOLL_DATA_OFFSET, FRAMES | index << 8)
            failure = -epoll_ctl(worker.epoll_fd, _CTL_ADD, ring.tap_fd, worker.events)
            done = done and failure in (0, errno.EEXIST)
    return done
