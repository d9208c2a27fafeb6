"""From a tx ring to nowhere: every frame is copied out of guest memory, counted and forgotten.

What is left is the cost of the ring itself and of one copy of the payload, as a device pays that takes frames in.
"""

from mpnet.jit.compile import compiled
from mpnet.jit.memory import load_u8
from mpnet.segment.layout import SPILL_BYTES, DropReason
from mpnet.virtio.net_header import GSO_TYPE
from mpnet.workers.chain import READABLE, chain_bytes, gather
from mpnet.workers.ring import (
    break_ring,
    close_burst,
    give_back,
    memory_was_lost,
    open_burst,
    refuse_kicks,
    take,
    want_kicks,
)
from mpnet.workers.state import BURST_SEGMENTS, ECHO, ETHERNET_HEADER_BYTES, RING_BURST, Context
from mpnet.workers.statistics import count_burst, count_drop

_SHORT_CHAIN = int(DropReason.SHORT_CHAIN)
_TOO_LONG = int(DropReason.TOO_LONG)
_DISABLED = int(DropReason.DISABLED)


@compiled
def consume(ctx: Context, index: int) -> int:
    """Consume one burst of a tx ring; returns the chains taken.

    Frames of a ring that is not enabled, or that are to be echoed and cannot be, are dropped.
    """
    ring = ctx.rings[index]
    worker = ctx.worker[0]
    if not open_burst(ctx, index):
        if ring.started:
            ring.ready = int(want_kicks(ctx, index))
        return 0
    refuse_kicks(ctx, index)
    dropping = ring.enabled == 0 or ring.backend == ECHO
    taken = 0
    segments = 0
    end = 1
    at = 0
    while taken < RING_BURST and segments < BURST_SEGMENTS:
        end = take(ctx, index, 0, READABLE)
        if end <= 0:
            break
        if dropping:
            count_drop(ctx, index, _DISABLED)
        else:
            at = _take_in(ctx, index, end, at)
        segments += end
        taken += 1
        give_back(ctx, index, worker.buffer_id, worker.span, 0)
    fault = worker.fault if end < 0 else 0
    if taken:
        count_burst(ctx, index, taken)
        close_burst(ctx, index)
    if not memory_was_lost(ctx, index) and fault:
        break_ring(ctx, index, fault)
    return taken


@compiled
def _take_in(ctx: Context, index: int, end: int, at: int) -> int:
    """Copy the frame in the slots below ``end`` behind the last one, at offset ``at``; where the next one goes.

    A copy always to the same place would be cheaper than any use that a frame can be put to.
    """
    ring = ctx.rings[index]
    shared = ctx.shared[index]
    length = chain_bytes(ctx, 0, end)
    if length < ring.header_bytes + ETHERNET_HEADER_BYTES:
        count_drop(ctx, index, _SHORT_CHAIN)
        return at
    if length > SPILL_BYTES:
        count_drop(ctx, index, _TOO_LONG)
        return at
    target = ctx.worker[0].bounce + (at if at + length <= SPILL_BYTES else 0)
    gather(ctx, target, 0, length)
    shared.packets += 1
    shared.bytes += length - ring.header_bytes
    shared.gso_packets += load_u8(target + GSO_TYPE) != 0
    return int(target + length - ctx.worker[0].bounce)
