"""From a tx ring to its TAP queue (VIRTIO 1.3, 5.1.6.2)."""

from mpnet.jit.compile import apart, inlined
from mpnet.jit.memory import store_u16
from mpnet.segment.layout import SPILL_BYTES, DropReason
from mpnet.virtio import net_header
from mpnet.workers.capture import capture, capturing
from mpnet.workers.chain import READABLE, chain_bytes, gather, iovec_base, strip
from mpnet.workers.coalesce import begin_burst, flush, offer
from mpnet.workers.ring import (
    break_ring,
    close_burst,
    fetch_ahead,
    give_back,
    look_again,
    memory_was_lost,
    open_burst,
    refuse_kicks,
    take,
    want_kicks,
)
from mpnet.workers.send import finish_sending, send_frame
from mpnet.workers.state import BURST, BURST_SEGMENTS, ETHERNET_HEADER_BYTES, HEADERS_BYTES, TX_FRAMES, Context
from mpnet.workers.statistics import count_burst, count_drop

_SHORT_CHAIN = int(DropReason.SHORT_CHAIN)
_TOO_LONG = int(DropReason.TOO_LONG)
_DISABLED = int(DropReason.DISABLED)
_ACCEPTED = -1
_NUM_BUFFERS = net_header.NUM_BUFFERS
_HEADER_BYTES = net_header.BYTES
_ENOUGH = TX_FRAMES // 2
"""Frames of a burst that need not become more."""


@apart
def transmit(ctx: Context, index: int) -> int:
    """Send one burst of a tx ring; returns the chains taken.

    When none is left the driver is asked to kick and ``ready`` is cleared. A ring that is started and not
    enabled gives its chains back unsent (vhost-user, "Ring states").
    """
    ring = ctx.rings[index]
    worker = ctx.worker[0]
    if not open_burst(ctx, index):
        if ring.started:
            ring.ready = int(want_kicks(ctx, index))
        return 0
    refuse_kicks(ctx, index)
    captured = capturing(ctx, index)
    begin_burst(ctx)
    taken = 0
    slot = 0
    end = 1
    # All frames' buffers stay listed until the burst is over: some wait for others of their flow.
    while _goes_on(ctx, index, taken, slot):
        # A slot stays free for the private copy of the headers.
        end = take(ctx, index, slot + 1, READABLE)
        if end <= 0:
            break
        if ring.coalesce:
            fetch_ahead(ctx, index)
        if captured:
            capture(ctx, index, slot + 1, chain_bytes(ctx, slot + 1, end))
        _send_chain(ctx, index, taken, slot + 1, end)
        slot = end
        give_back(ctx, index, worker.buffer_id, worker.span, 0)
        taken += 1
    fault = worker.fault if end < 0 else 0
    flush(ctx, index, taken)
    finish_sending(ctx, index)
    if taken:
        count_burst(ctx, index, taken)
        close_burst(ctx, index)
    if not memory_was_lost(ctx, index) and fault:
        break_ring(ctx, index, fault)
    return taken


@inlined
def _goes_on(ctx: Context, index: int, taken: int, slot: int) -> bool:
    """Whether a burst that has taken so many chains, and filled the slots up to ``slot``, takes another."""
    worker = ctx.worker[0]
    # Behind a full superframe others of interleaved flows would be short.
    if worker.filled and taken >= _ENOUGH:
        return False
    if worker.held:
        look_again(ctx, index)
    return bool(taken < TX_FRAMES and slot < BURST_SEGMENTS and worker.written + worker.held < BURST)


@inlined
def _send_chain(ctx: Context, index: int, number: int, begin: int, end: int) -> None:
    """Send the frame in the slots from ``begin`` to ``end``, or count why not."""
    ring = ctx.rings[index]
    refusal = _accept(ctx, index, number, begin, end) if ring.enabled else _DISABLED
    if refusal != _ACCEPTED:
        count_drop(ctx, index, refusal)
    elif ring.coalesce:
        offer(ctx, index, number)
    else:
        send_frame(ctx, index, number)


@inlined
def _accept(ctx: Context, index: int, number: int, begin: int, end: int) -> int:
    """Make the frame in the slots from ``begin`` to ``end`` frame ``number`` of this burst.

    Its headers are copied out of the guest's memory once; what the TAP is told comes from the copy.

    Returns:
        ``_ACCEPTED``, or the ``DropReason``.
    """
    ring = ctx.rings[index]
    frame = ctx.frames[number]
    frame.held = 0
    total = chain_bytes(ctx, begin, end)
    if total - ring.header_bytes < ETHERNET_HEADER_BYTES:
        return _SHORT_CHAIN
    if total > SPILL_BYTES:
        return _TOO_LONG
    gather(ctx, frame.private, begin, min(total, HEADERS_BYTES) if ring.coalesce else ring.header_bytes)
    if ring.header_bytes >= _HEADER_BYTES:
        # num_buffers is not the driver's to set (5.1.6.2.1), and is not there at all in the legacy header.
        store_u16(frame.private + _NUM_BUFFERS, 0)
    frame.whole = iovec_base(ctx, begin) if end - begin == 1 else 0
    frame.start = frame.private + ring.header_bytes
    frame.octets = total - ring.header_bytes
    frame.headers = 0
    frame.first = strip(ctx, begin, ring.header_bytes)
    frame.end = end
    return _ACCEPTED
