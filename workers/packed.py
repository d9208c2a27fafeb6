"""The device's half of a packed virtqueue: walking chains and returning them (VIRTIO 1.3, 2.8).

A used descriptor is written over the available one, so half a burst of them cannot be undone. What a burst
returns is therefore noted in shared memory first (the ring's *log*), and written to the ring from there: a worker
that takes over writes it again, as long as the driver has not seen it. The driver sees none of a burst before its
first descriptor's flags are written, which is done last.
"""

from mpnet.jit.compile import compiled, inlined
from mpnet.jit.memory import copy, load_i64, load_u16, store_i64
from mpnet.segment.layout import LOG_ENTRIES, LOG_ENTRY_BYTES, Fault
from mpnet.virtio.packed_ring import (
    advance,
    descriptor_at,
    descriptor_flags,
    hand_over,
    handover,
    handover_flags,
    handover_id,
    handover_length,
    is_available,
    make_handover,
    position,
    used_flags,
    wraps,
)
from mpnet.virtio.split_ring import (
    DESC_F_INDIRECT,
    DESC_F_NEXT,
    DESC_F_WRITE,
    DESCRIPTOR_BYTES,
    descriptor_address,
    descriptor_length,
)
from mpnet.workers.chain import (
    EITHER,
    append_buffer,
    begin_walk,
    indirect_fault,
    indirect_table,
    translate_single,
)
from mpnet.workers.state import Context

_ADDRESS_RANGE = int(Fault.ADDRESS_RANGE)
_CHAIN_LOOP = int(Fault.CHAIN_LOOP)
_NOT_NESTED = False


@compiled
def is_chain_available(ctx: Context, index: int, cursor: int) -> bool:
    """Whether the driver has made the chain at a cursor available (2.8.1)."""
    flags = descriptor_flags(descriptor_at(ctx.rings[index].descriptors, cursor))
    return is_available(flags, wraps(cursor))


@inlined
def take_packed(ctx: Context, index: int, slot: int, direction: int) -> int:
    """What ``ring.take`` does in a packed ring."""
    ring = ctx.rings[index]
    worker = ctx.worker[0]
    descriptor = descriptor_at(ring.descriptors, ring.cursor)
    offered = handover(descriptor)
    flags = handover_flags(offered)
    if ring.logged >= LOG_ENTRIES or not is_available(flags, wraps(ring.cursor)):
        return 0
    worker.buffer_id = handover_id(offered)
    worker.span = 1
    length = handover_length(offered)
    end = translate_single(ctx, descriptor_address(descriptor), length, flags, slot, direction)
    if end == 0:
        end = walk_packed(ctx, index, ring.cursor, slot, direction)
    ring.cursor = advance(ring.cursor, worker.span, ring.entries)
    return end


@compiled
def walk_packed(ctx: Context, index: int, cursor: int, slot: int, direction: int) -> int:
    """Translate the chain at a cursor into iovecs from ``slot`` on, as ``chain.walk`` does for split rings.

    ``worker.buffer_id`` and ``worker.span`` are left holding what ``give_back`` needs.
    """
    ring = ctx.rings[index]
    worker = ctx.worker[0]
    begin_walk(ctx)
    span = 0
    following = True
    while following and slot >= 0:
        descriptor = descriptor_at(ring.descriptors, cursor)
        offered = handover(descriptor)
        flags = handover_flags(offered)
        address = descriptor_address(descriptor)
        length = handover_length(offered)
        worker.buffer_id = handover_id(offered)
        if flags & DESC_F_INDIRECT:
            slot = _walk_table(ctx, index, address, length, flags, slot, direction)
        else:
            slot = append_buffer(ctx, address, length, flags, slot, direction)
        cursor = advance(cursor, 1, ring.entries)
        span += 1
        following = flags & DESC_F_NEXT != 0
        if following and span >= ring.entries:
            worker.fault = _CHAIN_LOOP
            slot = -1
    worker.span = worker.descriptors = span
    return slot


@compiled
def _walk_table(
    ctx: Context, index: int, address: int, length: int, flags: int, slot: int, direction: int
) -> int:
    """Translate the buffers of an indirect table (2.8.7): all its entries, in order, WRITE the only flag.

    DPDK's driver sets that flag in every entry, also of what it transmits, and DPDK's device does not look: where
    the queue has one direction, it counts.
    """
    worker = ctx.worker[0]
    worker.fault = indirect_fault(ctx.rings[index].indirect, _NOT_NESTED, flags, length)
    if worker.fault:
        return -1
    table = indirect_table(ctx, address, length, slot)
    if table == 0:
        worker.fault = _ADDRESS_RANGE
        return -1
    for entry in range(length // DESCRIPTOR_BYTES):
        descriptor = table + DESCRIPTOR_BYTES * entry
        marks = load_u16(descriptor + 14) & DESC_F_WRITE if direction == EITHER else direction
        slot = append_buffer(
            ctx, descriptor_address(descriptor), descriptor_length(descriptor), marks, slot, direction
        )
        if slot < 0:
            break
    return slot


@inlined
def note_used(ctx: Context, index: int, span: int, buffer_id: int, length: int) -> None:
    """Note a chain as returned by this burst; there is room, as whoever takes chains takes no more than fit.

    An entry of the log is what ``hand_over`` writes, with the chain's descriptors where the flags will be.
    """
    ring = ctx.rings[index]
    entry = ring.log + LOG_ENTRY_BYTES * ring.logged
    store_i64(entry, make_handover(length, buffer_id, span))
    ring.logged += 1


@compiled
def write_log(ctx: Context, index: int, log: int, cursor: int, count: int) -> None:
    """Write the ``count`` chains noted at ``log`` from ``cursor`` on, the first one's flags last (2.8.1).

    The cursor's position is below the ring's size, and so is what any of them spans.
    """
    ring = ctx.rings[index]
    first = descriptor_at(ring.descriptors, cursor)
    first_used = _used(log, cursor)
    cursor = advance(cursor, _span(log), ring.entries)
    for number in range(1, count):
        entry = log + LOG_ENTRY_BYTES * number
        hand_over(descriptor_at(ring.descriptors, cursor), _used(entry, cursor))
        cursor = advance(cursor, _span(entry), ring.entries)
    hand_over(first, first_used)


@compiled
def _used(entry: int, cursor: int) -> int:
    """What the descriptor at a cursor becomes by the chain that an entry of the log notes (2.8.5.1)."""
    noted = load_i64(entry)
    length = handover_length(noted)
    flags = used_flags(wraps(cursor)) | (DESC_F_WRITE if length else 0)
    return make_handover(length, handover_id(noted), flags)


@compiled
def _span(entry: int) -> int:
    """Descriptors of the chain that an entry of the log notes."""
    return handover_flags(load_i64(entry))


@compiled
def replay(ctx: Context, index: int) -> bool:
    """Write the last burst of a worker that died again, unless the driver may have seen it.

    Once the first descriptor's flags were written it is used, or the driver has made it available anew with the
    other wrap counter; either way it no longer looks as it did to the device before.

    Shared memory is written by others, too: what it says is copied, and checked there.

    Returns:
        False, with nothing written: what is noted cannot be a burst of this ring that ends where it says.
    """
    ring = ctx.rings[index]
    state = ctx.shared[index].place
    began = state >> 16 & 0xFFFF
    count = state >> 32
    if position(state & 0xFFFF) >= ring.entries:
        return False
    if count == 0:
        return True
    if count < 0 or count > LOG_ENTRIES or position(began) >= ring.entries:
        return False
    log = ctx.worker[0].iovecs  # in use within bursts alone
    copy(log, ring.log, LOG_ENTRY_BYTES * count)
    spanned = 0
    for number in range(count):
        span = _span(log + LOG_ENTRY_BYTES * number)
        spanned += span
        if span == 0 or spanned > ring.entries:
            return False
    if advance(began, spanned, ring.entries) != state & 0xFFFF:
        return False
    if is_chain_available(ctx, index, began):
        write_log(ctx, index, log, began, count)
    return True


@compiled
def make_place(place: int, began: int, count: int) -> int:
    """A packed ring's place in shared memory: one word, so that no half of it is ever seen.

    Args:
        place: cursor behind all that is returned.
        began: cursor at which the last burst began.
        count: chains it returned, which are in the log.
    """
    return place | began << 16 | count << 32
