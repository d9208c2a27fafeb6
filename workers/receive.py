"""From a TAP queue to its rx ring (VIRTIO 1.3, 5.1.6.3, 5.1.6.4).

A frame is read straight into the guest's buffers. How long it is shows only afterwards, so a *window* of
translated chains lies ready, long enough for a frame like the last one, and behind it the queue pair's *spill*
in shared memory for the rest. What went to the spill is copied on into further chains; where the driver has not
given enough of them yet, the whole frame stays in the spill until it has, and outlives the worker there.
"""

import errno

from mpnet.jit.compile import compiled
from mpnet.jit.memory import load_u8, store_u8, store_u16
from mpnet.jit.syscalls import readv
from mpnet.segment.layout import SPILL_BYTES, DropReason
from mpnet.virtio.net_header import FLAGS, GSO_TYPE, NUM_BUFFERS
from mpnet.workers.capture import capture, capturing
from mpnet.workers.chain import (
    WRITABLE,
    chain_bytes,
    gather,
    iovec_base,
    iovec_length,
    scatter,
    set_iovec,
)
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
from mpnet.workers.state import BURST, BURST_SEGMENTS, Context
from mpnet.workers.statistics import count_burst, count_drop

MAX_READ_SEGMENTS = 1000
"""Below IOV_MAX, with room for the spill."""

_TOO_LONG = int(DropReason.TOO_LONG)
_TAP_ERROR = int(DropReason.TAP_ERROR)
_BROKEN = int(DropReason.BROKEN)

# What became of an attempt to receive a frame, where it is not the frame's length.
_DRAINED = -1  # the TAP has none
_BLOCKED = -2  # the driver has not given enough buffers
_DROPPED = -3
_FAULT = -4


@compiled
def receive(ctx: Context, index: int) -> int:
    """Receive one burst into an rx ring; returns the frames delivered.

    ``ready`` is cleared when the TAP has no more frames, or when the driver has no more buffers and has been
    asked to kick.
    """
    ring = ctx.rings[index]
    shared = ctx.shared[index]
    window = ctx.window[0]
    if open_burst(ctx, index):
        refuse_kicks(ctx, index)
    elif not ring.started:
        return 0
    captured = capturing(ctx, index)
    _open_window(ctx)
    frames = 0
    packets = 0
    octets = 0
    outcome = 0
    most = BURST if ring.more else ring.batch
    while frames < most and window.end < BURST_SEGMENTS:
        first = window.begin
        outcome = _receive_frame(ctx, index)
        if outcome >= 0:
            packets += 1
            octets += outcome
            if captured:
                capture(ctx, index, first, outcome + ring.header_bytes)
        elif outcome != _DROPPED:
            break
        frames += 1
    _expect(ctx, index, frames, most)
    shared.packets += packets
    shared.bytes += octets
    shared.available_entries = available_entries(ctx, index)
    seen = ring.cursor
    if packets:
        count_burst(ctx, index, packets)
        close_burst(ctx, index)
    if not memory_was_lost(ctx, index):
        # The chains that were taken and not filled are no news: the next one behind them is.
        ring.cursor = seen
        _settle(ctx, index, frames, outcome)
    return packets


@compiled
def _expect(ctx: Context, index: int, frames: int, most: int) -> None:
    """Expect as many frames the next time as came in the burst of ``most`` at most that ends.

    To find that there are no more takes a system call, for which the driver need not wait: as many as there were
    last time are shown at once.
    """
    ring = ctx.rings[index]
    if not ring.more:
        ring.batch = max(frames, 1)
    elif frames:
        ring.batch = min(ring.batch + frames, BURST)
    ring.more = frames == most


@compiled
def _settle(ctx: Context, index: int, frames: int, outcome: int) -> None:
    """Decide by the outcome that ended a burst of ``frames`` whether the ring may have more work.

    A worker that polls comes back to the TAP anyway, and need not find out now.
    """
    ring = ctx.rings[index]
    if outcome == _FAULT:
        break_ring(ctx, index, ctx.window[0].fault)
    elif outcome == _BLOCKED:
        ring.ready = int(want_kicks(ctx, index))
    elif outcome == _DRAINED or (ctx.worker[0].polling and frames < BURST):
        ring.ready = 0


@compiled
def _open_window(ctx: Context) -> None:
    window = ctx.window[0]
    window.translated = 0
    window.filled = 0
    window.begin = 0
    window.end = 0
    window.bytes = 0
    window.descriptors = 0
    window.fault = 0


@compiled
def _extend_window(ctx: Context, index: int, size: int) -> None:
    """Translate chains until the window has ``size`` bytes, as far as there are chains.

    Without MRG_RXBUF a frame has one chain, and the window no more than that.
    """
    ring = ctx.rings[index]
    worker = ctx.worker[0]
    window = ctx.window[0]
    while window.bytes < size:
        if not ring.mergeable and window.translated > window.filled:
            return
        end = take(ctx, index, window.end, WRITABLE)
        if end <= 0:
            window.fault = worker.fault if end < 0 else 0
            return
        chain = ctx.chains[window.translated]
        chain.buffer_id = worker.buffer_id
        chain.span = worker.span
        chain.end = end
        chain.bytes = chain_bytes(ctx, window.end, end)
        window.bytes += chain.bytes
        window.descriptors += worker.descriptors
        window.end = end
        window.translated += 1


@compiled
def _receive_frame(ctx: Context, index: int) -> int:
    """Move one frame from the spill or the TAP into the guest; returns its bytes without the header."""
    ring = ctx.rings[index]
    shared = ctx.shared[index]
    window = ctx.window[0]
    direct = 0
    length = shared.spilled
    if length == 0:
        _extend_window(ctx, index, ring.expected)
        if window.bytes == 0:
            return _FAULT if window.fault else _BLOCKED
        direct = _direct_bytes(ctx)
        length = _read_tap(ctx, index, direct)
        if length < 0:
            return length
        ring.expected = length
    _extend_window(ctx, index, length)
    if window.bytes < length:
        return _no_room(ctx, index, length, direct)
    if length > direct:
        scatter(ctx, window.begin, direct, ring.spill + direct, length - direct)
    begin = window.begin
    _finish_header(ctx, index, begin, _fill_chains(ctx, index, length))
    shared.spilled = 0
    return int(length - ring.header_bytes)


@compiled
def _direct_bytes(ctx: Context) -> int:
    """Bytes of the window that one readv(2) can take."""
    window = ctx.window[0]
    if window.end - window.begin <= MAX_READ_SEGMENTS:
        return int(window.bytes)
    return chain_bytes(ctx, window.begin, window.begin + MAX_READ_SEGMENTS)


@compiled
def _read_tap(ctx: Context, index: int, direct: int) -> int:
    """Read a frame into the window's first ``direct`` bytes and the spill; returns its length or an outcome."""
    ring = ctx.rings[index]
    window = ctx.window[0]
    slots = min(window.end - window.begin, MAX_READ_SEGMENTS)
    room = max(SPILL_BYTES - direct, 0)
    # The next slot is not in use when the read ends: the window is translated anew beyond its end, and what
    # MAX_READ_SEGMENTS cuts off is put back.
    after = window.begin + slots
    base, size = iovec_base(ctx, after), iovec_length(ctx, after)
    set_iovec(ctx, after, ring.spill + min(direct, SPILL_BYTES), room)
    length = readv(ring.tap_fd, ctx.worker[0].iovecs + 16 * window.begin, slots + 1)
    set_iovec(ctx, after, base, size)
    if length in (-errno.EAGAIN, -errno.EINTR):
        return _DRAINED
    if length == -errno.EFAULT:
        ctx.worker[0].memory_lost += 1
        count_drop(ctx, index, _BROKEN)
        return _DRAINED
    if length < ring.header_bytes:
        # EBADFD: the queue is detached, or the TAP is gone; an event comes when that changes.
        return _DRAINED
    if length > direct + room:
        count_drop(ctx, index, _TOO_LONG)
        return _DROPPED
    return length


@compiled
def _no_room(ctx: Context, index: int, length: int, direct: int) -> int:
    """Keep a frame for which the chains do not suffice in the spill, or drop one that can never fit."""
    ring = ctx.rings[index]
    shared = ctx.shared[index]
    window = ctx.window[0]
    if window.fault:
        count_drop(ctx, index, _BROKEN)
        shared.spilled = 0
        return _FAULT
    if window.translated > window.filled and (not ring.mergeable or _driver_gave_all(ctx, index)):
        count_drop(ctx, index, _TOO_LONG)
        shared.spilled = 0
        return _DROPPED
    gather(ctx, ring.spill, window.begin, min(direct, length))
    shared.spilled = length
    return _BLOCKED


@compiled
def _driver_gave_all(ctx: Context, index: int) -> bool:
    """Whether all chains are walked, none is filled, and the table has no room for one more like the last."""
    window = ctx.window[0]
    room = ctx.rings[index].entries - window.descriptors
    return bool(window.filled == 0 and room < ctx.worker[0].descriptors)


@compiled
def _fill_chains(ctx: Context, index: int, length: int) -> int:
    """Enter the chains that hold ``length`` bytes in the used ring; returns how many they are."""
    window = ctx.window[0]
    first = window.filled
    while length > 0:
        chain = ctx.chains[window.filled]
        written = min(length, chain.bytes)
        give_back(ctx, index, chain.buffer_id, chain.span, written)
        length -= written
        window.bytes -= chain.bytes
        window.begin = chain.end
        window.filled += 1
    return int(window.filled - first)


@compiled
def _finish_header(ctx: Context, index: int, begin: int, buffers: int) -> None:
    """Complete the header that the TAP wrote into the buffers from ``begin`` on (5.1.6.4.1).

    The TAP leaves num_buffers alone, and sets DATA_VALID whether or not GUEST_CSUM was negotiated.
    """
    ring = ctx.rings[index]
    header = ctx.worker[0].header
    gather(ctx, header, begin, ring.header_bytes)
    store_u16(header + NUM_BUFFERS, buffers)
    if not ring.offloads:
        store_u8(header + FLAGS, 0)
    scatter(ctx, begin, 0, header, ring.header_bytes)
    ctx.shared[index].gso_packets += load_u8(header + GSO_TYPE) != 0
