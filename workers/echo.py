"""From a tx ring back to the rx ring of its pair.

Nothing is in between: a frame for which the driver has not given enough rx buffers yet waits in its tx ring. It
is copied once, from the driver's tx buffers to its rx buffers.
"""

from mpnet.jit.compile import compiled
from mpnet.jit.memory import copy, load_u8, store_i64, store_u16
from mpnet.segment.layout import SPILL_BYTES, DropReason
from mpnet.virtio.net_header import FLAGS, GSO_TYPE, NUM_BUFFERS
from mpnet.workers.capture import capture, capturing
from mpnet.workers.chain import READABLE, WRITABLE, chain_bytes, gather, iovec_base, iovec_length, scatter
from mpnet.workers.consume import consume
from mpnet.workers.ring import (
    available_entries,
    break_ring,
    close_burst,
    give_back,
    memory_was_lost,
    open_burst,
    refuse_kicks,
    take,
    want_kicks,
)
from mpnet.workers.state import BURST_SEGMENTS, ETHERNET_HEADER_BYTES, RING_BURST, Context
from mpnet.workers.statistics import count_burst, count_drop

_SHORT_CHAIN = int(DropReason.SHORT_CHAIN)
_BAD_HEADER = int(DropReason.BAD_HEADER)
_TOO_LONG = int(DropReason.TOO_LONG)

# What became of a frame, where it is not a DropReason.
_DELIVERED = -1
_BLOCKED = -2  # the driver has not given enough rx buffers
_RX_FAULT = -3
_EMPTY = -4  # there is none
_TX_FAULT = -5
_TOO_LONG_FOR_ALL = -6  # the driver will never give enough


@compiled
def echo(ctx: Context, rx_index: int) -> int:
    """Send one burst of a pair's tx ring back; returns the frames delivered.

    ``ready`` of both rings is cleared when the driver has been asked to kick for what is missing, be it frames or
    buffers. While the rx ring cannot take any, frames are dropped.
    """
    index = rx_index + 1
    rx = ctx.rings[rx_index]
    tx = ctx.rings[index]
    if not (rx.started and rx.enabled and tx.enabled):
        rx.ready = 0
        return consume(ctx, index)
    open_burst(ctx, rx_index)
    open_burst(ctx, index)
    if not (rx.started and tx.started):
        return 0
    refuse_kicks(ctx, rx_index)
    refuse_kicks(ctx, index)
    captured_rx, captured_tx = capturing(ctx, rx_index), capturing(ctx, index)
    frames = 0
    delivered = 0
    slot = 0
    outcome = _DELIVERED
    while frames < RING_BURST and slot < BURST_SEGMENTS:
        end = take(ctx, index, 0, READABLE)
        if end <= 0:
            outcome = _TX_FAULT if end < 0 else _EMPTY
            break
        buffer_id, span = ctx.worker[0].buffer_id, ctx.worker[0].span
        ctx.window[0].end = end
        outcome = _reflect(ctx, rx_index, end)
        if outcome < _DELIVERED:
            break
        if outcome >= 0:
            count_drop(ctx, index, outcome)
        delivered += outcome == _DELIVERED
        if captured_tx:
            capture(ctx, index, 0, chain_bytes(ctx, 0, end))
        if captured_rx and outcome == _DELIVERED:
            capture(ctx, rx_index, end, chain_bytes(ctx, 0, end))
        give_back(ctx, index, buffer_id, span, 0)
        slot += ctx.window[0].end
        frames += 1
    _close(ctx, rx_index, frames, delivered, outcome)
    return delivered


@compiled
def _close(ctx: Context, rx_index: int, frames: int, delivered: int, outcome: int) -> None:
    """End a burst: show what came of it, and decide whether there may be more to do."""
    rx = ctx.rings[rx_index]
    tx = ctx.rings[rx_index + 1]
    fault = ctx.worker[0].fault
    ctx.shared[rx_index].available_entries = available_entries(ctx, rx_index)
    # The next news is what comes behind the buffers that were looked at.
    seen = rx.cursor
    if delivered:
        close_burst(ctx, rx_index)
        rx.cursor = seen
    if frames:
        count_burst(ctx, rx_index + 1, frames)
        close_burst(ctx, rx_index + 1)
    if memory_was_lost(ctx, rx_index + 1):
        break_ring(ctx, rx_index, ctx.shared[rx_index + 1].fault)
    elif outcome == _TX_FAULT:
        break_ring(ctx, rx_index + 1, fault)
    elif outcome == _RX_FAULT:
        break_ring(ctx, rx_index, fault)
    elif outcome == _EMPTY:
        rx.ready = 0
        tx.ready = int(want_kicks(ctx, rx_index + 1))
    elif outcome == _BLOCKED:
        rx.ready = tx.ready = int(want_kicks(ctx, rx_index))
    else:
        # It may have been the rx ring's news that began this.
        tx.ready = 1


@compiled
def _reflect(ctx: Context, rx_index: int, end: int) -> int:
    """Deliver the frame in the slots below ``end``; what became of it."""
    rx = ctx.rings[rx_index]
    header = ctx.worker[0].header
    length = chain_bytes(ctx, 0, end)
    if length < rx.header_bytes + ETHERNET_HEADER_BYTES:
        return _SHORT_CHAIN
    if length > SPILL_BYTES:
        return _TOO_LONG
    gather(ctx, header, 0, rx.header_bytes)
    if load_u8(header + FLAGS) | load_u8(header + GSO_TYPE):
        # No offload is offered with this back-end (5.1.6.2.1).
        return _BAD_HEADER
    chains = _find_room(ctx, rx_index, end, length)
    if chains == _TOO_LONG_FOR_ALL:
        rx.cursor = rx.returned
        return _TOO_LONG
    if chains < 0:
        return chains
    _move(ctx, end, length)
    store_i64(header, 0)
    store_u16(header + 8, 0)
    store_u16(header + NUM_BUFFERS, chains)
    scatter(ctx, end, 0, header, rx.header_bytes)
    left = length
    for number in range(chains):
        chain = ctx.chains[number]
        written = min(left, chain.bytes)
        give_back(ctx, rx_index, chain.buffer_id, chain.span, written)
        left -= written
    for ring_index in (rx_index, rx_index + 1):
        shared = ctx.shared[ring_index]
        shared.packets += 1
        shared.bytes += length - rx.header_bytes
    return _DELIVERED


@compiled
def _find_room(ctx: Context, rx_index: int, slot: int, length: int) -> int:
    """Take rx chains that hold ``length`` bytes, into the slots from ``slot`` on; how many, or the outcome."""
    rx = ctx.rings[rx_index]
    room = 0
    chains = 0
    descriptors = 0
    while room < length:
        if chains > 0 and not rx.mergeable:
            return _TOO_LONG_FOR_ALL
        end = take(ctx, rx_index, slot, WRITABLE)
        if end < 0:
            return _RX_FAULT
        if end == 0:
            # With no room in the table for one more like the last, it will never fit.
            full = chains > 0 and rx.entries - descriptors < ctx.worker[0].descriptors
            return _TOO_LONG_FOR_ALL if full and rx.returned == rx.place else _BLOCKED
        chain = ctx.chains[chains]
        chain.buffer_id = ctx.worker[0].buffer_id
        chain.span = ctx.worker[0].span
        chain.bytes = chain_bytes(ctx, slot, end)
        room += chain.bytes
        ctx.window[0].end = end
        descriptors += ctx.worker[0].descriptors
        slot = end
        chains += 1
    return chains


@compiled
def _move(ctx: Context, end: int, length: int) -> None:
    """Copy ``length`` bytes from the buffers in slot 0 on to those in slot ``end`` on."""
    source, target = 0, end
    read, written = 0, 0
    while length > 0:
        piece = min(length, iovec_length(ctx, source) - read, iovec_length(ctx, target) - written)
        copy(iovec_base(ctx, target) + written, iovec_base(ctx, source) + read, piece)
        length -= piece
        read += piece
        written += piece
        if read == iovec_length(ctx, source):
            source += 1
            read = 0
        if written == iovec_length(ctx, target):
            target += 1
            written = 0
