"""Frames to the device, one buffer each, laid out as asked: exact rather than fast."""

import time
from collections.abc import Sequence

from mpnet.errors import MpnetError
from mpnet.guest.chain import PLAIN, Arena, Layout
from mpnet.guest.frame import Frame
from mpnet.guest.queue import Queue
from mpnet.guest.virtqueue import NOTHING, add, notify

_ARENA_BYTES = 1 << 20


class Sender:
    """Sends on one tx queue.

    Args:
        queue: the queue; nobody else may add to it.
        header_bytes: of the virtio-net header, 12 or 10.
    """

    def __init__(self, queue: Queue, header_bytes: int) -> None:
        self.queue = queue
        self._header_bytes = header_bytes
        self._arena = Arena(queue.memory, _ARENA_BYTES, packed=queue.packed)
        self._pending = 0

    def send(self, frames: Sequence[Frame], layout: Layout = PLAIN, seconds: float = 30.0) -> None:
        """Send every frame and wait until the device has used them all.

        Raises:
            MpnetError: it has not within ``seconds``, or a frame with this layout never fits.
        """
        deadline = time.monotonic() + seconds
        for frame in frames:
            data = frame.header.pack(self._header_bytes) + frame.data
            if not self._add(data, layout):
                self._drain(deadline)
                if not self._add(data, layout):
                    raise MpnetError(
                        f"a frame of {len(frame.data)} bytes in {len(layout.pieces(len(data)))} pieces does not "
                        f"fit into an empty queue of {self.queue.ring.size} descriptors",
                        "cut it into fewer pieces or use an indirect table",
                    )
        self._drain(deadline)

    def _add(self, data: bytes, layout: Layout) -> bool:
        buffer = self._arena.place(len(data), layout, writable=False)
        if buffer is None:
            return False
        self._arena.fill(buffer, data)
        if add(self.queue.virtqueue, buffer.chain, len(buffer.chain)) == NOTHING:
            return False
        self._pending += 1
        return True

    def _drain(self, deadline: float) -> None:
        """Wait until the device holds nothing."""
        notify(self.queue.virtqueue)
        while self._pending:
            if self.queue.take() is not None:
                self._pending -= 1
            elif not self.queue.wait(deadline):
                raise MpnetError(
                    f"the device holds {self._pending} chains of ring {self.queue.ring.index} and returns none",
                    "is it running, and the ring enabled?",
                )
        self._arena.clear()
