"""Frames from the device, into buffers of any shape: exact rather than fast."""

import time

from mpnet.errors import MpnetError
from mpnet.guest.chain import PLAIN, Arena, Buffer, Layout
from mpnet.guest.frame import Frame, NetHeader
from mpnet.guest.queue import Queue
from mpnet.guest.virtqueue import NOTHING, add, notify

_ARENA_BYTES = 4 << 20


class Receiver:
    """Receives on one rx queue.

    Args:
        queue: the queue; nobody else may add to it.
        header_bytes: of the virtio-net header, 12 or 10.
        mergeable: MRG_RXBUF was negotiated: a frame may take several buffers (VIRTIO 5.1.6.3.2).
    """

    def __init__(self, queue: Queue, header_bytes: int, *, mergeable: bool) -> None:
        self.queue = queue
        self._header_bytes = header_bytes
        self._mergeable = mergeable
        self._arena = Arena(queue.memory, _ARENA_BYTES, packed=queue.packed)
        self._posted: dict[int, Buffer] = {}
        self._parts: list[bytes] = []
        self._missing = 0

    def post(self, size: int, count: int = 1, layout: Layout = PLAIN) -> int:
        """Give the device up to ``count`` buffers of ``size`` bytes, header included; return how many fit.

        They are given again whenever they come back.
        """
        for done in range(count):
            buffer = self._arena.place(size, layout, writable=True)
            if buffer is None or not self._give(buffer):
                count = done
                break
        notify(self.queue.virtqueue)
        return count

    @property
    def posted(self) -> int:
        """Buffers the device holds."""
        return len(self._posted)

    def _give(self, buffer: Buffer) -> bool:
        head = add(self.queue.virtqueue, buffer.chain, len(buffer.chain))
        if head != NOTHING:
            self._posted[head] = buffer
        return head != NOTHING

    def receive(self, count: int = 1, seconds: float = 30.0) -> list[Frame]:
        """Wait for ``count`` frames; return those that came within ``seconds``, in order.

        Raises:
            MpnetError: the device returned a chain it does not hold, wrote past a buffer, or counted wrongly.
        """
        deadline = time.monotonic() + seconds
        frames: list[Frame] = []
        while len(frames) < count:
            used = self.queue.take()
            if used is not None:
                frames += self._collect(*used)
            else:
                notify(self.queue.virtqueue)
                if not self.queue.wait(deadline):
                    break
        notify(self.queue.virtqueue)
        return frames

    def _collect(self, head: int, length: int) -> list[Frame]:
        """Take one used buffer; give the frame it completes, if it does."""
        buffer = self._posted.pop(head)
        size = sum(length for _, length in buffer.spans)
        if length > size or not self._arena.guards_stand(buffer):
            raise MpnetError(f"the device wrote past a buffer of {size} bytes and says it wrote {length}")
        self._parts.append(self._arena.contents(buffer, length))
        if not self._give(buffer):
            raise MpnetError(f"a chain taken from ring {self.queue.ring.index} cannot be given back to it")
        if self._missing == 0:
            self._missing = self._buffers_of(self._parts[0])
        self._missing -= 1
        return [self._finish()] if self._missing == 0 else []

    def _buffers_of(self, first: bytes) -> int:
        if len(first) < self._header_bytes:
            raise MpnetError(f"the device wrote {len(first)} bytes, less than a header of {self._header_bytes}")
        if not self._mergeable:
            return 1
        count = NetHeader.unpack(first[: self._header_bytes]).num_buffers
        if count == 0:
            raise MpnetError("the device wrote num_buffers 0, expected at least 1")
        return count

    def _finish(self) -> Frame:
        data = b"".join(self._parts)
        self._parts.clear()
        return Frame(data[self._header_bytes :], NetHeader.unpack(data[: self._header_bytes]))
