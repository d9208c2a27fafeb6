"""From a tx ring to nowhere: every frame is copied out of guest memory, counted and forgotten.

What is left is the cost of the ring itself and of one copy of the payload, as a device pays that takes frames in.
"""

from mpnet.jit.compile import apart, inlined
from mpnet.jit.memory import load_u8
from mpnet.segment.layout import SPILL_BYTES, DropReason
from mpnet.virtio.net_header import GSO_TYPE
from mpnet.workers.burst import list_burst
from mpnet.workers.capture import capture, capturing
from mpnet.workers.chain import chain_bytes, gather
from mpnet.workers.ring import (
    break_ring,
    close_burst,
    give_back,
    memory_was_lost,
    open_burst,
    refuse_kicks,
    want_kicks,
)
from mpnet.workers.state import ECHO, ETHERNET_HEADER_BYTES, Context
from mpnet.workers.statistics import count_burst, count_drop

_SHORT_CHAIN = int(DropReason.SHORT_CHAIN)
_TOO_LONG = int(DropReason.TOO_LONG)
_DISABLED = int(DropReason.DISABLED)


@apart
def consume(ctx: Context, index: int) -> int:
    """Consume one burst of a tx ring; returns the chains taken.

    Frames of a ring that is not enabled, or that are to be echoed and cannot be, are dropped.
    """
    ring = ctx.rings[index]
    if not open_burst(ctx, index):
        if ring.started:
            ring.ready = int(want_kicks(ctx, index))
        return 0
    refuse_kicks(ctx, index)
    captured = capturing(ctx, index)
    dropping = ring.enabled == 0 or ring.backend == ECHO
    taken = list_burst(ctx, index)
    slot = 0
    at = 0
    for number in range(taken):
        chain = ctx.chains[number]
        if captured:
            capture(ctx, index, slot, chain_bytes(ctx, slot, chain.end))
        if dropping:
            count_drop(ctx, index, _DISABLED)
        else:
            at = _take_in(ctx, index, slot, chain.end, at)
        give_back(ctx, index, chain.buffer_id, chain.span, 0)
        slot = chain.end
    if taken:
        count_burst(ctx, index, taken)
        close_burst(ctx, index)
    if not memory_was_lost(ctx, index) and ctx.window[0].fault:
        break_ring(ctx, index, ctx.window[0].fault)
    return taken


@inlined
def _take_in(ctx: Context, index: int, slot: int, end: int, at: int) -> int:
    """Copy the frame in the slots to ``end`` behind the last one, at offset ``at``; where the next one goes.

    A copy always to the same place would be cheaper than any use that a frame can be put to.
    """
    ring = ctx.rings[index]
    shared = ctx.shared[index]
    length = chain_bytes(ctx, slot, end)
    if length < ring.header_bytes + ETHERNET_HEADER_BYTES:
        count_drop(ctx, index, _SHORT_CHAIN)
        return at
    if length > SPILL_BYTES:
        count_drop(ctx, index, _TOO_LONG)
        return at
    target = ctx.worker[0].bounce + (at if at + length <= SPILL_BYTES else 0)
    gather(ctx, target, slot, length)
    shared.packets += 1
    shared.bytes += length - ring.header_bytes
    shared.gso_packets += load_u8(target + GSO_TYPE) != 0
    return int(target + length - ctx.worker[0].bounce)
