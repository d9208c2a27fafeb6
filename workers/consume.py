"""From a tx ring to nowhere: every frame is copied out of guest memory, counted and forgotten.

What is left is the cost of the ring itself and of one copy of the payload, as a device pays that takes frames in.
"""

from mpnet.jit.compile import compiled, inlined
from mpnet.jit.memory import load_u8, prefetch
from mpnet.segment.layout import CACHE_LINE, SPILL_BYTES, DropReason
from mpnet.virtio.net_header import GSO_TYPE
from mpnet.workers.capture import capture, capturing
from mpnet.workers.chain import READABLE, chain_bytes, gather, iovec_base
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
from mpnet.workers.state import (
    BURST_SEGMENTS,
    ECHO,
    ETHERNET_HEADER_BYTES,
    RING_BURST,
    Context,
)
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
    captured = capturing(ctx, index)
    dropping = ring.enabled == 0 or ring.backend == ECHO
    taken = 0
    slot = 0
    end = 1
    while taken < RING_BURST and slot < BURST_SEGMENTS:
        end = take(ctx, index, slot, READABLE)
        if end <= 0:
            break
        # The driver's processor has these lines: they come while the chains behind this one are read.
        prefetch(iovec_base(ctx, slot))
        prefetch(iovec_base(ctx, slot) + CACHE_LINE)
        chain = ctx.chains[taken]
        chain.buffer_id, chain.span, chain.end = worker.buffer_id, worker.span, end
        slot = end
        taken += 1
    fault = worker.fault if end < 0 else 0
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
    if not memory_was_lost(ctx, index) and fault:
        break_ring(ctx, index, fault)
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
