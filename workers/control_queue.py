"""The control queue's transport: a command out of its chain, its ack back in (VIRTIO 1.3, 5.1.6.5).

What a command means is control's to decide; here it is bytes. Nothing is fast here and nothing needs to be:
this is Python over the same compiled accessors as the data path.
"""

import ctypes

from mpnet.jit.compile import compiled
from mpnet.jit.memory import store_u8
from mpnet.segment.layout import Fault
from mpnet.workers.chain import EITHER, chain_bytes, gather, scatter
from mpnet.workers.ring import ask_for_kick, break_ring, close_burst, give_back, open_burst, take
from mpnet.workers.state import Context, Scratch

MAX_COMMAND_BYTES = 64 * 1024
"""More than any command of the specification has; a longer one is a fault."""
ACK_BYTES = 1

_DIRECTION = int(Fault.DIRECTION)


@compiled
def take_command(ctx: Context, index: int, target: int) -> int:
    """Copy the next command's device-readable part to ``target``, which has room for ``MAX_COMMAND_BYTES``.

    Returns its length; -1 when there is none; -2 when the ring is broken.
    """
    ring = ctx.rings[index]
    worker = ctx.worker[0]
    # No poll comes here: a kick is asked for even while the worker polls its other rings.
    if not open_burst(ctx, index) and ring.started and ask_for_kick(ctx, index):
        open_burst(ctx, index)
    if not ring.started:
        return -2
    end = take(ctx, index, 0, EITHER)
    if end == 0:
        return -1
    if end < 0:
        break_ring(ctx, index, worker.fault)
        return -2
    size = worker.readable
    if size == 0 or size > MAX_COMMAND_BYTES or chain_bytes(ctx, 0, end) < size + ACK_BYTES:
        break_ring(ctx, index, _DIRECTION)
        return -2
    gather(ctx, target, 0, size)
    return int(size)


@compiled
def complete_command(ctx: Context, index: int, ack: int) -> None:
    """Return the chain of the command that was taken, with its ack byte; its used length is 1."""
    worker = ctx.worker[0]
    open_burst(ctx, index)
    end = take(ctx, index, 0, EITHER)
    size = worker.readable
    if end <= 0 or chain_bytes(ctx, 0, end) < size + ACK_BYTES:
        break_ring(ctx, index, worker.fault if end < 0 else _DIRECTION)
        return
    store_u8(worker.header, ack)
    scatter(ctx, 0, size, worker.header, ACK_BYTES)
    give_back(ctx, index, worker.buffer_id, worker.span, ACK_BYTES)
    close_burst(ctx, index)
    ctx.shared[index].packets += 1


class ControlQueue:
    """The control queue of the device, in the worker that serves queue pair 0.

    Args:
        ctx: the worker's context.
        index: the control queue's ring.
        scratch: where to allocate from.
    """

    def __init__(self, ctx: Context, index: int, scratch: Scratch) -> None:
        self._ctx = ctx
        self._index = index
        self._command = scratch.allocate(MAX_COMMAND_BYTES)
        self._waiting = False

    def take(self) -> bytes | None:
        """The next command, if there is one and the last one is completed."""
        ring = self._ctx.rings[self._index]
        if self._waiting or not (ring.started and ring.enabled and ring.ready):
            return None
        size = take_command(self._ctx, self._index, self._command)
        if size < 0:
            ring.ready = 0
            return None
        self._waiting = True
        return bytes((ctypes.c_char * size).from_address(self._command))

    def complete(self, ack: int) -> None:
        """Answer the command that was taken last; without effect when its ring was stopped meanwhile."""
        if self._waiting and self._ctx.rings[self._index].started:
            complete_command(self._ctx, self._index, ack)
        self._waiting = False

    def stopped(self) -> None:
        """The ring was stopped: a command that waits for its answer is left in the ring."""
        self._waiting = False
