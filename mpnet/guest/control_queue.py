"""The driver's side of the control queue (VIRTIO 1.3, 5.1.6.5)."""

import time

import numpy as np

from mpnet.errors import MpnetError
from mpnet.guest.chain import PLAIN, Arena, Layout
from mpnet.guest.queue import Queue
from mpnet.guest.virtqueue import NOTHING, add, notify

_ARENA_BYTES = 1 << 16
_ACK_BYTES = 1


class ControlQueue:
    """Sends commands, one at a time."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self._arena = Arena(queue.memory, _ARENA_BYTES)

    def command(
        self, group: int, number: int, data: bytes = b"", layout: Layout = PLAIN, seconds: float = 5.0
    ) -> int:
        """Send command ``number`` of class ``group`` and return the device's ``ack``: 0 means done.

        ``layout`` is of the part the device reads, the two bytes of class and command included.

        Raises:
            MpnetError: the command does not fit into the queue, or no answer came within ``seconds``.
        """
        request = bytes((group, number)) + data
        self._arena.clear()
        readable = self._arena.place(len(request), layout, writable=False)
        writable = self._arena.place(_ACK_BYTES, PLAIN, writable=True)
        if readable is None or writable is None:
            raise MpnetError(f"a control command of {len(request)} bytes, expected at most {_ARENA_BYTES // 2}")
        self._arena.fill(readable, request)
        self._arena.fill(writable, b"\xff")  # neither of the answers, to see that the device wrote one
        chain = np.concatenate([readable.chain, writable.chain])
        if add(self.queue.virtqueue, chain, len(chain)) == NOTHING:
            raise MpnetError(f"a chain of {len(chain)} descriptors on a queue of {self.queue.ring.size}")
        notify(self.queue.virtqueue)
        deadline = time.monotonic() + seconds
        while self.queue.take() is None:
            if not self.queue.wait(deadline):
                raise MpnetError(f"the device did not answer control command {group}.{number}")
        return self._arena.contents(writable, _ACK_BYTES)[0]
