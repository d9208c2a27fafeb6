"""One queue of the embedded driver: its memory, its eventfds and what the back-end is told of it."""

import contextlib
import os
import select
import time

from mpnet.errors import MpnetError
from mpnet.guest.memory import GuestMemory
from mpnet.guest.virtqueue import (
    BROKEN,
    NOTHING,
    Addresses,
    allocate,
    host_addresses,
    make_virtqueue,
    request_call,
    take,
)
from mpnet.vhost_user.ring import Ring
from mpnet.virtio.features import Feature, has
from mpnet.virtio.packed_ring import FIRST_CURSOR
from mpnet.virtio.split_ring import avail_bytes, descriptor_table_bytes, used_bytes

_POLL_SECONDS = 0.001


class Queue:
    """A virtqueue in guest memory, ready to be started.

    Args:
        memory: where it lies.
        index: ring number on the wire.
        size: descriptors; of a split queue a power of two.
        features: what was negotiated; RING_EVENT_IDX and RING_PACKED matter here.
        polled: neither kick nor call: both sides poll.

    Attributes:
        guest: guest addresses of descriptor table, available ring and used ring.
        host: the same in this process, for tests that write there what no driver would.
        virtqueue: for the functions of ``mpnet.guest.virtqueue``.
        ring: what the back-end is told.
    """

    def __init__(
        self, memory: GuestMemory, index: int, size: int, *, features: int = 0, polled: bool = False
    ) -> None:
        self.memory = memory
        self.guest: Addresses = allocate(memory, size)
        self.host: Addresses = host_addresses(memory, self.guest, size)
        kick, call, err = (None, None, None) if polled else (_eventfd(), _eventfd(), _eventfd())
        self.packed = has(features, Feature.RING_PACKED)
        self._event_idx = has(features, Feature.RING_EVENT_IDX)
        self.ring = Ring(index, size, *self._parts(), kick_fd=kick, call_fd=call, err_fd=err, enabled=True)
        self.reset()

    def reset(self) -> None:
        """Begin anew with an empty ring, as after a reset of the device; it must not be started."""
        ring = self.ring
        for part, size in zip(self.guest, (descriptor_table_bytes, avail_bytes, used_bytes), strict=True):
            self.memory.write(part, bytes(size(ring.size)))
        kick = -1 if ring.kick_fd is None else ring.kick_fd
        self.virtqueue = make_virtqueue(self.host, ring.size, kick, event_idx=self._event_idx, packed=self.packed)
        ring.base = FIRST_CURSOR | FIRST_CURSOR << 16 if self.packed else 0

    def _parts(self) -> tuple[int, int, int]:
        # Ring addresses are told as front-end user addresses, which are this process's own.
        return self.host.descriptors, self.host.avail, self.host.used

    def close(self) -> None:
        """Close the eventfds; the back-end keeps its duplicates until it stops the ring."""
        for fd in self.ring.fds:
            os.close(fd)
        self.ring.kick_fd = self.ring.call_fd = self.ring.err_fd = None
        self.virtqueue.state[0].kick_fd = -1

    def resume_base(self) -> None:
        """After a back-end that was not asked to stop: go on from the used index, as vhost-user.rst says.

        What it had taken and not returned is served again. A packed ring has no such index: as QEMU does, we say
        where the last start was, which is wrong.
        """
        if self.packed:
            return
        index = self.memory.read(self.guest.used + 2, 2)
        self.ring.base = int.from_bytes(index, "little")

    def take(self) -> tuple[int, int] | None:
        """Take one chain back: its head and the bytes written; None when there is none.

        Raises:
            MpnetError: the device returned a chain it does not hold.
        """
        head, length = take(self.virtqueue)
        if head == BROKEN:
            used = self.memory.read(self.guest.used, used_bytes(self.ring.size)).hex()
            raise MpnetError(f"the device returned a chain it does not hold on ring {self.ring.index}: {used}")
        return None if head == NOTHING else (head, length)

    def wait(self, deadline: float) -> bool:
        """Sleep until the device has returned something; False once ``time.monotonic()`` is past ``deadline``."""
        while not request_call(self.virtqueue):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if self.ring.call_fd is None:
                time.sleep(_POLL_SECONDS)
            elif _readable(self.ring.call_fd, left):
                self.virtqueue.state[0].calls += _drain(self.ring.call_fd)
        return True

    def broken(self) -> bool:
        """Tell whether the device has reported this ring as broken since last asked (its error eventfd)."""
        return self.ring.err_fd is not None and _drain(self.ring.err_fd) > 0


def _eventfd() -> int:
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


def _readable(fd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(1, int(seconds * 1000))))


def _drain(eventfd: int) -> int:
    with contextlib.suppress(BlockingIOError):
        return os.eventfd_read(eventfd)
    return 0
