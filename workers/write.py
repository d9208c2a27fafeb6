"""Writes to a TAP queue: one by one, or those of a burst together through io_uring, and what came of each.

What a write reads stays where it is until ``finish_writes``; a chain is given back to the driver only after that.
"""

import errno

from mpnet.jit.compile import compiled
from mpnet.jit.memory import load_i64, load_u8, load_u32
from mpnet.jit.syscalls import write, writev
from mpnet.jit.uring import NOTHING, complete, entry, queue, submit
from mpnet.jit.uring_setup import WRITEV
from mpnet.segment.layout import DropReason, Engine
from mpnet.virtio.net_header import GSO_TYPE
from mpnet.workers.state import Context

_BAD_HEADER = int(DropReason.BAD_HEADER)
_TAP_ERROR = int(DropReason.TAP_ERROR)
_TAP_DOWN = int(DropReason.TAP_DOWN)
_BROKEN = int(DropReason.BROKEN)
_RW = int(Engine.RW)


@compiled
def put(ctx: Context, index: int, operation: int, address: int, count: int, tag: int) -> None:
    """Write a frame to the ring's TAP queue: at once, or queued behind those before it.

    Args:
        ctx: the worker's context.
        index: of the ring.
        operation: ``uring.WRITE`` of bytes or ``uring.WRITEV`` of iovecs.
        address: of either.
        count: of either.
        tag: twice the frame's number in the burst, plus 1 where it begins a superframe.
    """
    ring = ctx.uring[0]
    if ring.fd < 0:
        settle(ctx, index, tag, _write(ctx, index, operation, address, count))
        return
    queue(ctx.uring, operation, index >> 1, address, count, tag)
    if ring.pending == ring.entries:
        finish_writes(ctx, index)


@compiled
def put_now(ctx: Context, index: int, address: int, count: int) -> int:
    """Write from iovecs behind all that is queued; the result is the caller's to ``settle``."""
    finish_writes(ctx, index)
    return _write(ctx, index, WRITEV, address, count)


@compiled
def finish_writes(ctx: Context, index: int) -> None:
    """Have all that is queued written, and count what came of it.

    A ring that the kernel no longer takes anything from is given up: what it held is written plainly.
    """
    ring = ctx.uring[0]
    while ring.pending:
        taken = submit(ctx.uring, ring.unsubmitted, ring.pending)
        if taken < 0 and taken != -errno.EINTR:
            _write_rest(ctx, index)
            return
        tag = complete(ctx.uring)
        while tag != NOTHING:
            settle(ctx, index, tag, ring.result)
            tag = complete(ctx.uring)


@compiled
def _write_rest(ctx: Context, index: int) -> None:
    ring = ctx.uring[0]
    ring.fd = -1
    ctx.stats[0].engine = _RW
    for place in range(ring.unsubmitted):
        sqe = entry(ctx.uring, place - ring.unsubmitted)
        result = _write(ctx, index, load_u8(sqe), load_i64(sqe + 16), load_u32(sqe + 24))
        settle(ctx, index, load_i64(sqe + 32), result)
    ring.pending = 0


@compiled
def _write(ctx: Context, index: int, operation: int, address: int, count: int) -> int:
    fd = ctx.rings[index].tap_fd
    return writev(fd, address, count) if operation == WRITEV else write(fd, address, count)


@compiled
def settle(ctx: Context, index: int, tag: int, result: int) -> None:
    """Count what a write did: the frames it brought to the TAP, or why it did not.

    A superframe that the kernel refuses is noted, and not lost: see ``send.send_refused``.
    """
    frame = ctx.frames[tag >> 1]
    shared = ctx.shared[index]
    joined = tag & 1
    if joined and result == -errno.EINVAL:
        frame.refused = 1
        ctx.worker[0].refused += 1
    elif result < 0:
        shared.drops[_drop_reason(ctx, result)] += frame.count if joined else 1
    elif joined:
        shared.packets += frame.count
        shared.bytes += frame.count * frame.headers + frame.total
        shared.coalesced += frame.count
        shared.coalesced_frames += 1
        shared.coalesced_saved_bytes += (frame.count - 1) * frame.headers
    else:
        shared.packets += 1
        shared.bytes += frame.octets
        shared.gso_packets += load_u8(frame.private + GSO_TYPE) != 0


@compiled
def _drop_reason(ctx: Context, result: int) -> int:
    """Why the TAP refused a frame (tun(4)): EINVAL is its judgement of the header, EIO that it is down."""
    if result == -errno.EINVAL:
        return _BAD_HEADER
    if result in (-errno.EIO, -errno.EBADFD):
        return _TAP_DOWN
    if result == -errno.EFAULT:
        ctx.worker[0].memory_lost += 1
        return _BROKEN
    return _TAP_ERROR
