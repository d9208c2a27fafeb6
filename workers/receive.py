"""From a TAP queue to its rx ring (VIRTIO 1.3, 5.1.6.3, 5.1.6.4).

A frame is read straight into the guest's buffers. How long it is shows only afterwards, so a *window* of
translated chains lies ready, long enough for a frame like the last one, and behind it the queue pair's *spill*
in shared memory for the rest. What went to the spill is copied on into further chains; where the driver has not
given enough of them yet, the whole frame stays in the spill until it has, and outlives the worker there.

A frame that the driver does not take as it is goes by the spill as a whole: a superframe to be segmented, and,
for a driver without GUEST_CSUM, all frames. After one of them, the next is read there at once. So are short
frames: one buffer to read into instead of two takes less time than copying them.
"""

import errno

from mpnet.jit.compile import apart, compiled, inlined
from mpnet.jit.memory import load_u8, store_u8, store_u16
from mpnet.jit.syscalls import read, readv
from mpnet.segment.layout import SPILL_BYTES, DropReason
from mpnet.virtio import net_header
from mpnet.virtio.net_header import FLAGS, GSO_TYPE, NUM_BUFFERS
from mpnet.workers.capture import capture, capturing
from mpnet.workers.chain import gather, iovec_base, iovec_length, scatter, set_iovec
from mpnet.workers.ring import (
    available_entries,
    break_ring,
    close_burst,
    fetch_ahead_to_write,
    memory_was_lost,
    open_burst,
    refuse_kicks,
    want_kicks,
)
from mpnet.workers.state import BURST, BURST_SEGMENTS, RX_FRAMES, Context
from mpnet.workers.statistics import count_burst, count_drop
from mpnet.workers.superframe import (
    complete_frame,
    goes_whole,
    open_superframe,
    segment_bytes,
    write_segment,
)
from mpnet.workers.window import (
    MAX_READ_SEGMENTS,
    can_never_hold,
    direct_bytes,
    extend_window,
    fill_chains,
    open_window,
)

_TOO_LONG = int(DropReason.TOO_LONG)
_BAD_HEADER = int(DropReason.BAD_HEADER)
_BROKEN = int(DropReason.BROKEN)
_TAP_ERROR = int(DropReason.TAP_ERROR)
_LONG_HEADER = net_header.BYTES
_SHORT = 256
"""Bytes of a frame that is copied once more in less time than the kernel takes to read into several buffers."""
_SHORTS = 16
"""Short frames in a row after which another is expected: a long one would be copied once more, too."""

# What became of an attempt to receive a frame, where it is not the frame's length.
_DRAINED = -1  # the TAP has none
_BLOCKED = -2  # the driver has not given enough buffers
_DROPPED = -3
_FAULT = -4
_SPILLED = -5  # it is in the spill


@apart
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
    open_window(ctx)
    ctx.superframe[0].known = 0
    frames = 0
    packets = 0
    octets = 0
    outcome = 0
    most = BURST if ring.more else ring.batch
    while (window.reads < most or shared.spilled) and frames < RX_FRAMES and window.end < BURST_SEGMENTS:
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
    _expect(ctx, index, most)
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
        _settle(ctx, index, outcome)
    return packets


@compiled
def _expect(ctx: Context, index: int, most: int) -> None:
    """Expect as many frames the next time as were read in the burst of ``most`` at most that ends.

    To find that there are no more takes a system call, for which the driver need not wait: as many as there were
    last time are shown at once.
    """
    ring = ctx.rings[index]
    reads = ctx.window[0].reads
    if not ring.more:
        ring.batch = max(reads, 1)
    elif reads:
        ring.batch = min(ring.batch + reads, BURST)
    ring.more = int(reads == most)


@compiled
def _settle(ctx: Context, index: int, outcome: int) -> None:
    """Decide by the outcome that ended a burst whether the ring may have more work.

    A worker that polls comes back to the TAP anyway, and need not find out now.
    """
    ring = ctx.rings[index]
    window = ctx.window[0]
    back_anyway = ctx.worker[0].polling and window.reads < BURST and ctx.shared[index].spilled == 0
    if outcome == _FAULT:
        break_ring(ctx, index, window.fault)
    elif outcome == _BLOCKED:
        ring.ready = int(want_kicks(ctx, index))
    elif outcome == _DRAINED or back_anyway:
        ring.ready = 0


@inlined
def _receive_frame(ctx: Context, index: int) -> int:
    """Move one frame, or a segment of one, to the guest; returns its bytes without the header, or an outcome."""
    if ctx.shared[index].spilled == 0:
        outcome = _read_frame(ctx, index)
        if outcome != _SPILLED:
            return outcome
    if goes_whole(ctx.rings[index].whole, load_u8(ctx.rings[index].spill + GSO_TYPE)):
        return _deliver_spilled(ctx, index)
    return _deliver_segment(ctx, index)


@inlined
def _read_frame(ctx: Context, index: int) -> int:
    """Read a frame: into the guest's buffers, where the driver takes it and they suffice, else into the spill."""
    ring = ctx.rings[index]
    shared = ctx.shared[index]
    window = ctx.window[0]
    extend_window(ctx, index, 1 if ring.staged else ring.expected)
    if window.bytes == 0:
        return _FAULT if window.fault else _BLOCKED
    # What became of the frame's header is looked at in the window, which must therefore hold it.
    spilling = ring.staged or ring.shorts >= _SHORTS or window.bytes < ring.header_bytes
    direct = 0 if spilling else direct_bytes(ctx)
    if ring.shorts >= _SHORTS:
        fetch_ahead_to_write(ctx, index)
    length = _read_tap(ctx, index, direct)
    if length < 0:
        return length
    window.reads += 1
    ring.shorts = ring.shorts + 1 if length <= _SHORT else 0
    if direct:
        ring.expected = length
        gso_type = load_u8(_header(ctx, index, window.begin) + GSO_TYPE)
        if not goes_whole(ring.whole, gso_type):
            ring.staged = 1
        else:
            extend_window(ctx, index, length)
            if window.bytes >= length:
                if length > direct:
                    scatter(ctx, window.begin, direct, ring.spill + direct, length - direct)
                begin = window.begin
                _finish_header(ctx, index, begin, fill_chains(ctx, index, length))
                shared.gso_packets += gso_type != 0
                return int(length - ring.header_bytes)
        gather(ctx, ring.spill, window.begin, min(direct, length))
    shared.spill_done = 0
    shared.spilled = length
    return _SPILLED


@compiled
def _read_tap(ctx: Context, index: int, direct: int) -> int:
    """Read a frame into the window's first ``direct`` bytes and the spill; returns its length or an outcome."""
    ring = ctx.rings[index]
    if direct == 0:
        return _checked(ctx, index, read(ring.tap_fd, ring.spill, SPILL_BYTES))
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
    return _checked(ctx, index, length)


@inlined
def _checked(ctx: Context, index: int, length: int) -> int:
    """The length of a frame as the TAP gave it, if that can be one; else an outcome."""
    if length in (-errno.EAGAIN, -errno.EBADFD, 0):
        # EBADFD: the queue is detached, or the TAP is gone; an event comes when that changes.
        return _DRAINED
    if length == -errno.EFAULT:
        ctx.worker[0].memory_lost += 1
        count_drop(ctx, index, _BROKEN)
        return _DRAINED
    if length < ctx.rings[index].header_bytes:
        return _failed(ctx, index, length)
    if length > SPILL_BYTES:
        # Whatever the window could hold: the spill must, should the frame have to go there after all.
        count_drop(ctx, index, _TOO_LONG)
        return _DROPPED
    return length


@compiled
def _failed(ctx: Context, index: int, length: int) -> int:
    """What follows a read that gave no frame: the next one, for no event comes of frames that are there already.

    With EINVAL a kernel has dropped one whose offload it cannot express. A TAP that fails in another way, again
    and again, is not read for ever.
    """
    ctx.window[0].errors += 1
    if length != -errno.EINTR:
        count_drop(ctx, index, _TAP_ERROR)
    return _DROPPED if ctx.window[0].errors < BURST else _DRAINED


@compiled
def _deliver_spilled(ctx: Context, index: int) -> int:
    """Copy the frame in the spill to the guest as it is; returns its bytes without the header, or an outcome."""
    ring = ctx.rings[index]
    shared = ctx.shared[index]
    length = shared.spilled
    ring.expected = length
    if ring.offloads:
        ring.staged = 0
    extend_window(ctx, index, length)
    if ctx.window[0].bytes < length:
        outcome = _no_room(ctx, index)
        if outcome != _BLOCKED:
            shared.spilled = 0
        return outcome
    begin = ctx.window[0].begin
    buffers = fill_chains(ctx, index, length)
    if ring.header_bytes == _LONG_HEADER:
        store_u16(ring.spill + NUM_BUFFERS, buffers)
    shared.gso_packets += load_u8(ring.spill + GSO_TYPE) != 0
    if ring.offloads:
        scatter(ctx, begin, 0, ring.spill, length)
    else:
        complete_frame(ctx, index, begin, length)
    shared.spilled = 0
    return int(length - ring.header_bytes)


@inlined
def _deliver_segment(ctx: Context, index: int) -> int:
    """Give the guest the next segment of the superframe in the spill; returns its bytes, or an outcome."""
    ring = ctx.rings[index]
    shared = ctx.shared[index]
    packet = ctx.superframe[0]
    if not packet.known and not open_superframe(ctx, index):
        count_drop(ctx, index, _BAD_HEADER)
        shared.spilled = 0
        return _DROPPED
    done = shared.spill_done
    octets = packet.headers + segment_bytes(ctx, done)
    fetch_ahead_to_write(ctx, index)
    extend_window(ctx, index, ring.header_bytes + octets)
    if ctx.window[0].bytes >= ring.header_bytes + octets:
        begin = ctx.window[0].begin
        buffers = fill_chains(ctx, index, ring.header_bytes + octets)
        write_segment(ctx, index, begin, buffers, done)
        shared.segmented += 1
        shared.segmented_frames += done == 0
        shared.segmented_saved_bytes += packet.headers if done else 0
        outcome = octets
    else:
        outcome = _no_room(ctx, index)
        if outcome == _BLOCKED:
            return outcome
    done += packet.gso_size
    if done >= packet.payload or outcome == _FAULT:
        # The one store that says so: a replacement would go on behind the end.
        shared.spilled = 0
        packet.known = 0
    else:
        shared.spill_done = done
    return int(outcome)


@compiled
def _no_room(ctx: Context, index: int) -> int:
    """What becomes of a frame for which the window does not suffice: it waits, or is dropped and counted."""
    if ctx.window[0].fault:
        count_drop(ctx, index, _BROKEN)
        return _FAULT
    if can_never_hold(ctx, index):
        count_drop(ctx, index, _TOO_LONG)
        return _DROPPED
    return _BLOCKED


@inlined
def _header(ctx: Context, index: int, begin: int) -> int:
    """Where the virtio-net header in the buffers from ``begin`` on can be read: there, or a copy."""
    if iovec_length(ctx, begin) >= ctx.rings[index].header_bytes:
        return iovec_base(ctx, begin)
    gather(ctx, ctx.worker[0].header, begin, ctx.rings[index].header_bytes)
    return int(ctx.worker[0].header)


@inlined
def _finish_header(ctx: Context, index: int, begin: int, buffers: int) -> None:
    """Complete the header that the TAP wrote into the buffers from ``begin`` on (5.1.6.4.1).

    The TAP leaves num_buffers alone, and sets DATA_VALID whether or not GUEST_CSUM was negotiated.
    """
    ring = ctx.rings[index]
    header = _header(ctx, index, begin)
    if ring.header_bytes == _LONG_HEADER:
        store_u16(header + NUM_BUFFERS, buffers)
    if not ring.offloads:
        store_u8(header + FLAGS, 0)
    if header == ctx.worker[0].header:
        scatter(ctx, begin, 0, header, ring.header_bytes)
