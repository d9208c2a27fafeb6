"""Frames and superframes on their way to the TAP queue: one write each."""

from typing import Any

from mpnet.jit.compile import compiled
from mpnet.jit.memory import copy, load_u8, store_i64, store_u8, store_u16
from mpnet.jit.uring_setup import WRITE, WRITEV
from mpnet.virtio.net_header import (
    CSUM_OFFSET,
    CSUM_START,
    F_NEEDS_CSUM,
    FLAGS,
    GSO_SIZE,
    GSO_TYPE,
    GSO_UDP_L4,
    HDR_LEN,
)
from mpnet.workers.chain import fetch, gather, iovec_base, iovec_length, set_iovec
from mpnet.workers.checksum import pseudo_header_sum, store_be16, sum_bytes
from mpnet.workers.flow import TCP_FIN, TCP_FLAGS, TCP_PSH, checksum_offset, transport_protocol
from mpnet.workers.state import COALESCE_TCP, COALESCE_UDP, PRIVATE_BYTES, TX_FRAMES, Context
from mpnet.workers.write import finish_writes, put, put_now, settle

MAX_WRITE_SEGMENTS = 1024
"""IOV_MAX: what writev(2) takes."""
_LONG = 4096
"""Bytes from which on a frame is fetched before it is written: the kernel's copy would wait line by line."""


@compiled
def send_frame(ctx: Context, index: int, number: int) -> None:
    """Write frame ``number`` of this burst to the TAP.

    A frame in one buffer goes as it lies, which the kernel takes faster than a list of two. Of any other the
    headers come from the private copy as far as they are known.
    """
    ring = ctx.rings[index]
    frame = ctx.frames[number]
    ctx.worker[0].written += 1
    if frame.octets >= _LONG:
        fetch(ctx, frame.first, frame.end)
    if frame.whole:
        put(ctx, index, WRITE, frame.whole, ring.header_bytes + frame.octets, 2 * number)
        return
    first, end = frame.first, frame.end
    bounced = end - first >= MAX_WRITE_SEGMENTS
    if bounced:
        # The one buffer for such frames may be read by a write that is queued.
        finish_writes(ctx, index)
        rest = frame.octets - frame.headers
        gather(ctx, ctx.worker[0].bounce, first, rest)
        set_iovec(ctx, first, ctx.worker[0].bounce, rest)
        end = first + 1
    # The slot before the first is free: transmit left one, or stripping did.
    set_iovec(ctx, first - 1, frame.private, ring.header_bytes + frame.headers)
    put(ctx, index, WRITEV, ctx.worker[0].iovecs + 16 * (first - 1), end - first + 1, 2 * number)


@compiled
def send_superframe(ctx: Context, index: int, number: int) -> None:
    """Write the superframe that begins with frame ``number`` of this burst to the TAP.

    A kernel that does not know its kind (UDP before Linux 6.2) refuses it. Then its frames are sent one by one,
    and no more superframes of that kind are made. The first of a kind is therefore never queued: what follows
    would overtake its frames. Some kernels (6.6.44, 6.10.3) take one and refuse another.
    """
    ring = ctx.rings[index]
    frame = ctx.frames[number]
    ctx.worker[0].written += 1
    header = frame.private + PRIVATE_BYTES
    copy(header, frame.private, ring.header_bytes + frame.headers)
    _finish_headers(ctx, header, header + ring.header_bytes, number)
    joined = ctx.worker[0].joined + 16 * ctx.worker[0].joined_used
    pieces = _join(ctx, joined, number)
    ctx.worker[0].joined_used += pieces
    store_i64(joined, header)
    store_i64(joined + 8, ring.header_bytes + frame.headers)
    tag = 2 * number + 1
    kind = _kind(frame)
    if ring.accepted & kind:
        put(ctx, index, WRITEV, joined, pieces, tag)
    else:
        result = put_now(ctx, index, joined, pieces)
        ring.accepted |= kind if result >= 0 else 0
        settle(ctx, index, tag, result)
    send_refused(ctx, index)


@compiled
def _kind(frame: Any) -> int:
    return COALESCE_UDP if frame.gso_type == GSO_UDP_L4 else COALESCE_TCP


@compiled
def send_refused(ctx: Context, index: int) -> None:
    """Send the frames of superframes that the kernel has refused, and make no more of their kinds."""
    ring = ctx.rings[index]
    worker = ctx.worker[0]
    number = 0
    # More of them may come to light while frames are sent.
    while worker.refused:
        frame = ctx.frames[number % TX_FRAMES]
        if frame.refused:
            frame.refused = 0
            worker.refused -= 1
            ring.coalesce &= ~_kind(frame)
            ring.accepted &= ~_kind(frame)
            _send_apart(ctx, index, number % TX_FRAMES)
        number += 1


@compiled
def _send_apart(ctx: Context, index: int, number: int) -> None:
    while number >= 0:
        send_frame(ctx, index, number)
        number = ctx.frames[number].next


@compiled
def finish_sending(ctx: Context, index: int) -> None:
    """Have all of a burst written, those superframes that the kernel refuses frame by frame."""
    finish_writes(ctx, index)
    if ctx.worker[0].refused:
        send_refused(ctx, index)
        finish_writes(ctx, index)


@compiled
def _join(ctx: Context, joined: int, number: int) -> int:
    """List all pieces of a superframe's payload behind a place for its headers; returns how many that makes."""
    pieces = 1
    while number >= 0:
        frame = ctx.frames[number]
        for slot in range(frame.first, frame.end):
            store_i64(joined + 16 * pieces, iovec_base(ctx, slot))
            store_i64(joined + 16 * pieces + 8, iovec_length(ctx, slot))
            pieces += 1
        number = frame.next
    return pieces


@compiled
def _finish_headers(ctx: Context, header: int, start: int, number: int) -> None:
    """Make a copy of the first frame's headers those of the whole superframe.

    Args:
        ctx: the worker's context.
        header: address of the virtio-net header.
        start: address of the frame's headers.
        number: the superframe's first frame.
    """
    first = ctx.frames[number]
    transport = start + first.transport
    length = first.headers - first.transport + first.total
    store_u8(header + FLAGS, F_NEEDS_CSUM)
    store_u8(header + GSO_TYPE, first.gso_type)
    store_u16(header + HDR_LEN, first.headers)
    store_u16(header + GSO_SIZE, first.payload)
    store_u16(header + CSUM_START, first.transport)
    store_u16(header + CSUM_OFFSET, checksum_offset(first))
    _set_network_length(first, start + first.network, first.transport - first.network + length)
    if first.gso_type == GSO_UDP_L4:
        store_be16(transport + 4, length)
    else:
        last = ctx.frames[first.last]
        flags = load_u8(last.start + last.transport + TCP_FLAGS) & (TCP_PSH | TCP_FIN)
        store_u8(transport + TCP_FLAGS, load_u8(transport + TCP_FLAGS) | flags)
    total = pseudo_header_sum(start + first.network, first.ipv6, transport_protocol(first), length)
    store_be16(transport + checksum_offset(first), total)


@compiled
def _set_network_length(frame: Any, packet: int, length: int) -> None:
    """Set the length of the IP packet at ``packet``, header included."""
    if frame.ipv6:
        store_be16(packet + 4, length - (frame.transport - frame.network))
        return
    store_be16(packet + 2, length)
    store_be16(packet + 10, 0)
    store_be16(packet + 10, sum_bytes(packet, frame.transport - frame.network) ^ 0xFFFF)
