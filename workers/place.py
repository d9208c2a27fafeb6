"""A superframe read right into the buffers of its segments.

The superframes of a stream are alike. So the next one to be cut up is read as if it were like the last: its
headers into the spill, each segment's payload to where it belongs in a chain of its own, behind room for headers,
and the rest into the spill. If its headers say that it is like that, the segments lack their headers alone, and
the only copy of the payload was the kernel's. If not, what was read is gathered in the spill, and goes the way it
would have gone. Nothing that lies in the guest's buffers is looked at.
"""

from typing import Any

from mpnet.jit.compile import compiled
from mpnet.jit.memory import copy, load_u8, load_u16
from mpnet.segment.layout import SPILL_BYTES
from mpnet.virtio.net_header import CSUM_START, GSO_SIZE, GSO_TYPE
from mpnet.workers.chain import iovec_base, iovec_length, set_iovec
from mpnet.workers.state import MAX_IOVECS, Context
from mpnet.workers.superframe import goes_whole, least_transport, open_superframe, transport_bytes
from mpnet.workers.window import extend_window


@compiled
def lay_out(ctx: Context, index: int) -> int:
    """List where a superframe like the last one belongs, in slots behind the window; how many of its segments.

    No more than there are chains of one buffer that hold one; 0 where none is expected.
    """
    ring = ctx.rings[index]
    window = ctx.window[0]
    if not ring.offloads or ring.cut_size == 0:
        return 0
    count = _places(ctx, index)
    slot = window.end + 1
    rest = ring.cut_headers + count * ring.cut_size
    if count == 0 or rest > SPILL_BYTES or slot + count + 2 > MAX_IOVECS:
        return 0
    set_iovec(ctx, slot, ring.spill, ring.cut_headers)
    for number in range(count):
        base = iovec_base(ctx, window.begin + number)
        set_iovec(ctx, slot + 1 + number, base + ring.cut_headers, ring.cut_size)
    set_iovec(ctx, slot + 1 + count, ring.spill + rest, SPILL_BYTES - rest)
    return count


@compiled
def _places(ctx: Context, index: int) -> int:
    """Have chains in the window for all segments that are expected; how many are of one buffer that fits."""
    ring = ctx.rings[index]
    window = ctx.window[0]
    count = 0
    while count < ring.cut_count:
        if window.translated == window.filled + count:
            extend_window(ctx, index, window.bytes + 1)
        if window.translated == window.filled + count:
            break
        chain = ctx.chains[window.filled + count]
        if chain.end != window.begin + count + 1 or chain.bytes < ring.cut_headers + ring.cut_size:
            break
        count += 1
    return count


@compiled
def accept_placed(ctx: Context, index: int, count: int, length: int) -> bool:
    """Take a frame of ``length`` bytes that was read into ``count`` segments' places, if it is like the last one.

    Where it is not, all of it is in the spill afterwards.
    """
    ring = ctx.rings[index]
    shared = ctx.shared[index]
    packet = ctx.superframe[0]
    if _is_alike(ring, length) and open_superframe(ctx, index, length):
        packet.placed = min(count * packet.gso_size, packet.payload)
        packet.placed_done = 0
        packet.octets = length
        return True
    _gather_placed(ctx, index, count, length - ring.cut_headers)
    shared.spill_done = 0
    shared.spilled = length
    return False


@compiled
def _is_alike(ring: Any, length: int) -> bool:
    """Whether a superframe that was read has its headers, and no more, in the spill, and segments as expected."""
    header = ring.spill
    transport = ring.header_bytes + load_u16(header + CSUM_START)
    if length <= ring.cut_headers or load_u16(header + GSO_SIZE) != ring.cut_size:
        return False
    kind = load_u8(header + GSO_TYPE)
    if goes_whole(ring.whole, kind) or transport + least_transport(kind) > ring.cut_headers:
        return False
    return bool(transport + transport_bytes(kind, header + transport) == ring.cut_headers)


@compiled
def _gather_placed(ctx: Context, index: int, count: int, size: int) -> None:
    """Copy ``size`` bytes that were read into ``count`` segments' places to where they belong in the spill."""
    ring = ctx.rings[index]
    slot = ctx.window[0].end + 2
    target = ring.spill + ring.cut_headers
    for _ in range(count):
        piece = min(iovec_length(ctx, slot), size)
        if piece <= 0:
            break
        copy(target, iovec_base(ctx, slot), piece)
        target += piece
        size -= piece
        slot += 1
