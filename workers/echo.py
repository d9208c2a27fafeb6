"""From a tx ring back to the rx ring of its pair.

Nothing is in between: a frame for which the driver has not given enough rx buffers yet waits in its tx ring. It
is copied once, from the driver's tx buffers to its rx buffers.
"""

from mpnet.jit.compile import apart, compiled, inlined
from mpnet.jit.memory import copy, load_u8, store_i64, store_u16, store_u32
from mpnet.segment.layout import LOG_ENTRIES, SPILL_BYTES, DropReason
from mpnet.virtio.net_header import BYTES, FLAGS, GSO_TYPE, NUM_BUFFERS
from mpnet.workers.burst import list_burst
from mpnet.workers.capture import capture, capturing
from mpnet.workers.chain import WRITABLE, chain_bytes, gather, iovec_base, iovec_length, scatter
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


@apart
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
    listed = list_burst(ctx, index)
    begin = 0
    room = ctx.window[0].end
    frames = 0
    delivered = 0
    octets = 0
    outcome = _DELIVERED
    while frames < listed and ctx.window[0].end < BURST_SEGMENTS + room:
        chain = ctx.chains[frames]
        place = ctx.window[0].end
        length = chain_bytes(ctx, begin, chain.end)
        outcome = _reflect(ctx, rx_index, begin, length)
        if outcome < _DELIVERED:
            break
        if outcome == _DELIVERED:
            delivered += 1
            octets += length - rx.header_bytes
        else:
            count_drop(ctx, index, outcome)
        if captured_tx:
            capture(ctx, index, begin, length)
        if captured_rx and outcome == _DELIVERED:
            capture(ctx, rx_index, place, length)
        give_back(ctx, index, chain.buffer_id, chain.span, 0)
        begin = chain.end
        frames += 1
    if frames == listed:
        outcome = _listed_all(ctx, listed)
    for shared in (ctx.shared[rx_index], ctx.shared[index]):
        shared.packets += delivered
        shared.bytes += octets
    _close(ctx, rx_index, frames, delivered, outcome)
    return delivered


@inlined
def _listed_all(ctx: Context, listed: int) -> int:
    """What follows the frames of a burst that all were done with."""
    if ctx.window[0].fault:
        return _TX_FAULT
    return _EMPTY if listed < RING_BURST else _DELIVERED


@compiled
def _close(ctx: Context, rx_index: int, frames: int, delivered: int, outcome: int) -> None:
    """End a burst: show what came of it, and decide whether there may be more to do."""
    rx = ctx.rings[rx_index]
    tx = ctx.rings[rx_index + 1]
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
        break_ring(ctx, rx_index + 1, ctx.window[0].fault)
    elif outcome == _RX_FAULT:
        break_ring(ctx, rx_index, ctx.worker[0].fault)
    elif outcome == _EMPTY:
        rx.ready = 0
        tx.ready = int(want_kicks(ctx, rx_index + 1))
    elif outcome == _BLOCKED:
        rx.ready = tx.ready = int(want_kicks(ctx, rx_index))
    else:
        # It may have been the rx ring's news that began this.
        tx.ready = 1


@inlined
def _reflect(ctx: Context, rx_index: int, begin: int, length: int) -> int:
    """Deliver the frame in the slots from ``begin`` on, ``length`` bytes with its header; what became of it."""
    rx = ctx.rings[rx_index]
    header = ctx.worker[0].header
    if length < rx.header_bytes + ETHERNET_HEADER_BYTES:
        return _SHORT_CHAIN
    if length > SPILL_BYTES:
        return _TOO_LONG
    gather(ctx, header, begin, rx.header_bytes)
    if load_u8(header + FLAGS) | load_u8(header + GSO_TYPE):
        # No offload is offered with this back-end (5.1.6.2.1).
        return _BAD_HEADER
    place = ctx.window[0].end
    chains = _find_room(ctx, rx_index, length)
    if chains == _TOO_LONG_FOR_ALL:
        rx.cursor = rx.returned
        return _TOO_LONG
    if chains < 0:
        return chains
    _move(ctx, begin, place, length)
    _complete(ctx, rx_index, place, chains)
    left = length
    for number in range(chains):
        chain = ctx.chains[RING_BURST + number]
        written = min(left, chain.bytes)
        give_back(ctx, rx_index, chain.buffer_id, chain.span, written)
        left -= written
    return _DELIVERED


@inlined
def _complete(ctx: Context, rx_index: int, slot: int, chains: int) -> None:
    """Write the header of a frame of so many chains to the buffers from ``slot`` on (5.1.6)."""
    rx = ctx.rings[rx_index]
    if rx.header_bytes == BYTES and iovec_length(ctx, slot) >= BYTES:
        # Out of a private copy it would be read by other words than it was written by. The processor does that
        # only once all that was written before is in its cache: it would wait for the lines of each frame.
        target = iovec_base(ctx, slot)
        store_i64(target, 0)
        store_u32(target + 8, chains << 16)
        return
    header = ctx.worker[0].header
    store_i64(header, 0)
    store_u16(header + 8, 0)
    store_u16(header + NUM_BUFFERS, chains)
    scatter(ctx, slot, 0, header, rx.header_bytes)


@inlined
def _find_room(ctx: Context, rx_index: int, length: int) -> int:
    """Take rx chains that hold ``length`` bytes, into the slots from ``window.end`` on; how many, or the outcome.

    They are listed in ``ctx.chains`` behind the burst's own. No more are taken than a packed ring's log has room
    for, however short they are.
    """
    rx = ctx.rings[rx_index]
    slot = ctx.window[0].end
    room = 0
    chains = 0
    descriptors = 0
    while room < length:
        if chains > 0 and not rx.mergeable:
            return _TOO_LONG_FOR_ALL
        end = take(ctx, rx_index, slot, WRITABLE) if rx.logged + chains < LOG_ENTRIES else 0
        if end < 0:
            return _RX_FAULT
        if end == 0:
            # With no room in the table, or the log, for one more like the last, it will never fit.
            full = chains > 0 and (rx.entries - descriptors < ctx.worker[0].descriptors or chains == LOG_ENTRIES)
            return _TOO_LONG_FOR_ALL if full and rx.returned == rx.place else _BLOCKED
        chain = ctx.chains[RING_BURST + chains]
        chain.buffer_id = ctx.worker[0].buffer_id
        chain.span = ctx.worker[0].span
        chain.bytes = chain_bytes(ctx, slot, end)
        room += chain.bytes
        ctx.window[0].end = end
        descriptors += ctx.worker[0].descriptors
        slot = end
        chains += 1
    return chains


@inlined
def _move(ctx: Context, source: int, target: int, length: int) -> None:
    """Copy ``length`` bytes from the buffers from slot ``source`` on to those from slot ``target`` on."""
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
