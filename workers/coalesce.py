"""Coalescing: consecutive frames of one flow within a burst become one frame for the host to segment.

The rules are those of the kernel's generic receive offload, so that a segmented superframe is what the guest
sent: the same bytes and boundaries, in the same order within each flow. One rule is stricter: packets that have
the same IPv4 identification are left as they are. The kernel merges them where they must not be fragmented, and
notes that the number stands still; a virtio-net header has no place for that note, and segmenting would count it.

Nothing waits longer than its burst.
"""

from typing import Any

from mpnet.jit.compile import compiled, inlined
from mpnet.jit.memory import load_u8, load_u16
from mpnet.virtio.net_header import F_NEEDS_CSUM, FLAGS, GSO_UDP_L4
from mpnet.workers.chain import strip
from mpnet.workers.checksum import fold, load_be16, pseudo_header_sum, sum_buffers, sum_bytes
from mpnet.workers.flow import (
    checksum_offset,
    identification,
    parse,
    same_flow,
    same_headers,
    sequence_number,
    transport_protocol,
)
from mpnet.workers.send import MAX_WRITE_SEGMENTS, send_frame, send_superframe
from mpnet.workers.state import FLOW_SLOTS, MAX_PIECES, RIGHT, TX_FRAMES, UNKNOWN, WRONG, Context

MAX_PACKET_BYTES = 65535
"""What an IPv4 header's length can say; IPv6 packets are kept as short."""
MAX_FRAMES = 64
"""Frames in one superframe: the kernel's limit for UDP."""


@compiled
def begin_burst(ctx: Context) -> None:
    """Forget the flows of the last burst."""
    worker = ctx.worker[0]
    worker.burst += 1
    worker.held = 0
    worker.written = 0
    worker.joined_used = 0
    worker.filled = 0


@compiled
def offer(ctx: Context, index: int, number: int) -> None:
    """Send frame ``number`` of this burst, by itself or with others of its flow, now or at the burst's end."""
    frame = ctx.frames[number]
    parse(ctx, index, number)
    if frame.gso_type == 0:
        # It may be of any flow, as fragments are: none is to be overtaken by it.
        flush(ctx, index, number)
        send_frame(ctx, index, number)
        return
    if frame.mergeable:
        _take_headers(ctx, number)
    slot = _find(ctx, number)
    held = _frame_in(ctx, slot)
    if held >= 0 and ctx.frames[held].held:
        if _fits(ctx, held, number):
            _append(ctx, held, number)
            ctx.worker[0].filled = int(_is_full(ctx, held))
            if frame.final or frame.payload < ctx.frames[held].payload:
                _release(ctx, index, held)
            return
        _release(ctx, index, held)
    if frame.mergeable and not frame.final:
        _hold(ctx, slot, number)
    else:
        send_frame(ctx, index, number)


@compiled
def flush(ctx: Context, index: int, end: int) -> None:
    """Send what waits among the burst's first ``end`` frames, the oldest first."""
    for number in range(end):
        if ctx.worker[0].held == 0:
            return
        if ctx.frames[number].held:
            _release(ctx, index, number)


@inlined
def _take_headers(ctx: Context, number: int) -> None:
    """Leave only the payload to the guest's buffers, unless that is in too many pieces."""
    frame = ctx.frames[number]
    headers = frame.octets - frame.payload
    frame.first = strip(ctx, frame.first, headers)
    frame.headers = headers
    frame.mergeable = frame.end - frame.first <= MAX_PIECES


@inlined
def _find(ctx: Context, number: int) -> int:
    """The slot of a frame's flow in the table, or a free one for it."""
    frame = ctx.frames[number]
    slot = frame.hashed % FLOW_SLOTS
    seen = _frame_in(ctx, slot)
    # At most BURST slots are in use: there is always a free one.
    while seen >= 0 and not same_flow(ctx.frames[seen], frame):
        slot = (slot + 1) % FLOW_SLOTS
        seen = _frame_in(ctx, slot)
    return int(slot)


@inlined
def _frame_in(ctx: Context, slot: int) -> int:
    """The frame of this burst in a slot, or -1."""
    entry = ctx.flows[slot]
    return int(entry % TX_FRAMES) if entry // TX_FRAMES == ctx.worker[0].burst else -1


@compiled
def _hold(ctx: Context, slot: int, number: int) -> None:
    """Let a frame wait for more of its flow."""
    frame = ctx.frames[number]
    frame.held = 1
    frame.count = 1
    frame.total = frame.payload
    frame.pieces = frame.end - frame.first
    frame.last = number
    frame.next = -1
    ctx.flows[slot] = ctx.worker[0].burst * TX_FRAMES + number
    ctx.worker[0].held += 1


@compiled
def _release(ctx: Context, index: int, number: int) -> None:
    """Send what waits with frame ``number`` as its first."""
    frame = ctx.frames[number]
    frame.held = 0
    ctx.worker[0].held -= 1
    if frame.count == 1:
        send_frame(ctx, index, number)
    else:
        send_superframe(ctx, index, number)


@inlined
def _fits(ctx: Context, held: int, number: int) -> bool:
    """Whether a frame can follow in the superframe that begins with frame ``held``.

    Its checksum is the last thing looked at: where the driver has made it, that takes all of the payload.
    """
    first = ctx.frames[held]
    frame = ctx.frames[number]
    if not frame.mergeable or frame.payload > first.payload:
        return False
    if first.headers - first.network + first.total + frame.payload > MAX_PACKET_BYTES:
        return False
    if first.count >= MAX_FRAMES or first.pieces + frame.end - frame.first >= MAX_WRITE_SEGMENTS:
        return False
    if not same_headers(first, frame) or not _follows(first, frame):
        return False
    return _checksum_is_right(ctx, held) and _checksum_is_right(ctx, number)


@inlined
def _is_full(ctx: Context, held: int) -> bool:
    """Whether the superframe that begins with frame ``held`` has no room for another frame as long as that."""
    first = ctx.frames[held]
    room = MAX_PACKET_BYTES - (first.headers - first.network) - first.total
    return bool(first.count >= MAX_FRAMES or room < first.payload)


@inlined
def _follows(first: Any, frame: Any) -> bool:
    """Whether the numbers in a frame's headers are those that segmenting will give it."""
    if not first.ipv6:
        ahead = (identification(frame) - identification(first)) & 0xFFFF
        if ahead != first.count:
            return False
    if frame.gso_type == GSO_UDP_L4:
        return True
    return bool((sequence_number(frame) - sequence_number(first)) & 0xFFFFFFFF == first.total)


@inlined
def _append(ctx: Context, held: int, number: int) -> None:
    """Make a frame that fits the superframe's last."""
    first = ctx.frames[held]
    frame = ctx.frames[number]
    ctx.frames[first.last].next = number
    frame.next = -1
    frame.held = 0
    first.last = number
    first.count += 1
    first.total += frame.payload
    first.pieces += frame.end - frame.first


@inlined
def _checksum_is_right(ctx: Context, number: int) -> bool:
    frame = ctx.frames[number]
    if frame.checksum == UNKNOWN:
        frame.checksum = RIGHT if _verify(ctx, number) else WRONG
    return bool(frame.checksum == RIGHT)


@compiled
def _verify(ctx: Context, number: int) -> bool:
    """Whether a frame has the checksum, or the beginning of one, that it would get from segmenting."""
    frame = ctx.frames[number]
    header = frame.start + frame.transport
    size = frame.octets - frame.transport
    field = header + checksum_offset(frame)
    packet = frame.start + frame.network
    total = pseudo_header_sum(packet, frame.ipv6, transport_protocol(frame), size)
    if load_u8(frame.private + FLAGS) & F_NEEDS_CSUM:
        return load_be16(field) == total
    # Both forms of zero verify: segments get all ones from UDP, where zero means none, and zero from TCP.
    if frame.gso_type != GSO_UDP_L4 and load_u16(field) == 0xFFFF:
        return False
    total += sum_bytes(header, frame.headers - frame.transport)
    total += sum_buffers(ctx, frame.first, frame.end)
    return fold(total) == 0xFFFF
