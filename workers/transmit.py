"""From a tx ring to its TAP queue (VIRTIO 1.3, 5.1.6.2)."""

import errno

from mpnet.jit.compile import compiled
from mpnet.jit.memory import load_u8, store_u16
from mpnet.jit.syscalls import writev
from mpnet.segment.layout import SPILL_BYTES, DropReason
from mpnet.virtio.net_header import GSO_TYPE, NUM_BUFFERS
from mpnet.workers.chain import (
    READABLE,
    chain_bytes,
    gather,
    iovec_base,
    iovec_length,
    set_iovec,
)
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
from mpnet.workers.state import BURST, BURST_SEGMENTS, Context
from mpnet.workers.statistics import count_burst, count_drop

ETHERNET_HEADER_BYTES = 14
MAX_WRITE_SEGMENTS = 1024
"""IOV_MAX: what writev(2) takes."""

_SHORT_CHAIN = int(DropReason.SHORT_CHAIN)
_BAD_HEADER = int(DropReason.BAD_HEADER)
_TOO_LONG = int(DropReason.TOO_LONG)
_TAP_ERROR = int(DropReason.TAP_ERROR)
_TAP_DOWN = int(DropReason.TAP_DOWN)
_DISABLED = int(DropReason.DISABLED)
_BROKEN = int(DropReason.BROKEN)
_EFAULT = -errno.EFAULT


@compiled
def transmit(ctx: Context, index: int) -> int:
    """Send one burst of a tx ring; returns the chains taken.

    When none is left the driver is asked to kick and ``ready`` is cleared. A ring that is started and not
    enabled gives its chains back unsent (vhost-user, "Ring states").
    """
    ring = ctx.rings[index]
    shared = ctx.shared[index]
    worker = ctx.worker[0]
    if not open_burst(ctx, index):
        if ring.started and not want_kicks(ctx, index):
            ring.ready = 0
        return 0
    refuse_kicks(ctx, index)
    taken = 0
    packets = 0
    octets = 0
    gso = 0
    segments = 0
    end = 1
    while taken < BURST and segments < BURST_SEGMENTS:
        # Slot 0 stays free for the private copy of the header.
        end = take(ctx, index, 1, READABLE)
        if end <= 0:
            break
        segments += end
        sent = send_frame(ctx, index, end) if ring.enabled else -_DISABLED - 1
        if sent >= 0:
            packets += 1
            octets += sent
            gso += load_u8(worker.header + GSO_TYPE) != 0
        else:
            count_drop(ctx, index, -sent - 1)
        give_back(ctx, index, worker.buffer_id, worker.span, 0)
        taken += 1
    fault = worker.fault if end < 0 else 0
    shared.packets += packets
    shared.bytes += octets
    shared.gso_packets += gso
    if taken:
        count_burst(ctx, taken)
        close_burst(ctx, index)
    if not memory_was_lost(ctx, index) and fault:
        break_ring(ctx, index, fault)
    return taken


@compiled
def send_frame(ctx: Context, index: int, end: int) -> int:
    """Write the frame in the slots from 1 to ``end`` to the TAP; returns its bytes, or ``-1 - DropReason``.

    The header is copied out of the guest's memory once, and the copy is what the TAP reads. The frame itself is
    read by the kernel, once.
    """
    ring = ctx.rings[index]
    header = ctx.worker[0].header
    total = chain_bytes(ctx, 1, end)
    frame = total - ring.header_bytes
    if frame < ETHERNET_HEADER_BYTES:
        return -_SHORT_CHAIN - 1
    if total > SPILL_BYTES:
        return -_TOO_LONG - 1
    gather(ctx, header, 1, ring.header_bytes)
    # num_buffers is not the driver's to set (5.1.6.2.1), and is not there at all in the legacy header.
    store_u16(header + NUM_BUFFERS, 0)
    first = _strip(ctx, ring.header_bytes)
    if end - first >= MAX_WRITE_SEGMENTS:
        gather(ctx, ctx.worker[0].bounce, first, frame)
        set_iovec(ctx, first, ctx.worker[0].bounce, frame)
        end = first + 1
    set_iovec(ctx, first - 1, header, ring.header_bytes)
    result = writev(ring.tap_fd, ctx.worker[0].iovecs + 16 * (first - 1), end - first + 1)
    if result >= 0:
        return int(frame)
    return -_drop_reason(ctx, result) - 1


@compiled
def _strip(ctx: Context, size: int) -> int:
    """Cut ``size`` bytes off the buffers from slot 1 on, which hold more; returns the first slot that is left."""
    slot = 1
    while iovec_length(ctx, slot) <= size:
        size -= iovec_length(ctx, slot)
        slot += 1
    set_iovec(ctx, slot, iovec_base(ctx, slot) + size, iovec_length(ctx, slot) - size)
    return slot


@compiled
def _drop_reason(ctx: Context, result: int) -> int:
    """Why the TAP refused a frame (tun(4)): EINVAL is its judgement of the header, EIO that it is down."""
    if result == -errno.EINVAL:
        return _BAD_HEADER
    if result in (-errno.EIO, -errno.EBADFD):
        return _TAP_DOWN
    if result == _EFAULT:
        ctx.worker[0].memory_lost += 1
        return _BROKEN
    return _TAP_ERROR
