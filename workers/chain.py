"""From a chain of descriptors to a list of buffers in this process (VIRTIO 1.3, 2.7.5 and 2.7.13).

A guest is hostile. Each field of a descriptor is loaded once into a local, checked there and used from there;
the rings themselves were checked when the ring started. The result is a run of ``struct iovec`` in the worker's
own memory: whatever the guest writes into its descriptors afterwards has no effect.
"""

from mpnet.jit.compile import compiled, inlined
from mpnet.jit.memory import copy, load_i64, prefetch, store_i64
from mpnet.segment.layout import CACHE_LINE, Fault
from mpnet.virtio.split_ring import (
    DESC_F_INDIRECT,
    DESC_F_NEXT,
    DESC_F_WRITE,
    DESCRIPTOR_BYTES,
    descriptor_address,
    descriptor_flags,
    descriptor_length,
    descriptor_next,
)
from mpnet.workers.state import MAX_IOVECS, MAX_SEGMENTS, Context

READABLE = 0
WRITABLE = DESC_F_WRITE
EITHER = -1
"""What a walk may meet: device-readable buffers, device-writable ones, or these behind those."""

MAX_CHAIN_BYTES = 1 << 32

# Compiled code takes plain integers; these are frozen into it.
_HEAD_RANGE = int(Fault.HEAD_RANGE)
_NEXT_RANGE = int(Fault.NEXT_RANGE)
_CHAIN_LOOP = int(Fault.CHAIN_LOOP)
_CHAIN_LENGTH = int(Fault.CHAIN_LENGTH)
_ZERO_LENGTH = int(Fault.ZERO_LENGTH)
_DIRECTION = int(Fault.DIRECTION)
_ADDRESS_RANGE = int(Fault.ADDRESS_RANGE)
_INDIRECT_NESTED = int(Fault.INDIRECT_NESTED)
_INDIRECT_WITH_NEXT = int(Fault.INDIRECT_WITH_NEXT)
_INDIRECT_LENGTH = int(Fault.INDIRECT_LENGTH)
_INDIRECT_NOT_NEGOTIATED = int(Fault.INDIRECT_NOT_NEGOTIATED)
_TOO_MANY_SEGMENTS = int(Fault.TOO_MANY_SEGMENTS)


@inlined
def iovec_base(ctx: Context, slot: int) -> int:
    """Address of the buffer in a slot, which is below ``MAX_IOVECS``."""
    return load_i64(ctx.worker[0].iovecs + 16 * slot)


@inlined
def iovec_length(ctx: Context, slot: int) -> int:
    """Bytes of the buffer in a slot, which is below ``MAX_IOVECS``."""
    return load_i64(ctx.worker[0].iovecs + 16 * slot + 8)


@inlined
def set_iovec(ctx: Context, slot: int, base: int, length: int) -> None:
    """Fill a slot, which is below ``MAX_IOVECS``."""
    store_i64(ctx.worker[0].iovecs + 16 * slot, base)
    store_i64(ctx.worker[0].iovecs + 16 * slot + 8, length)


@compiled
def find_region(ctx: Context, address: int) -> int:
    """Index of the region that holds a guest address, or -1; the last answer is tried first."""
    worker = ctx.worker[0]
    region = ctx.regions[worker.last_region]
    if region.guest_address <= address < region.guest_address + region.length:
        return int(worker.last_region)
    for i in range(worker.regions):
        region = ctx.regions[i]
        if region.guest_address <= address < region.guest_address + region.length:
            worker.last_region = i
            return i
    return -1


@compiled
def translate(ctx: Context, address: int, length: int, slot: int) -> int:
    """Append the buffer at a guest address as iovecs, one a region that it crosses.

    Returns:
        The slot after the last one filled, or -1: the range is not all guest memory, or there are too many.
    """
    while length > 0:
        found = find_region(ctx, address)
        if found < 0 or slot >= MAX_IOVECS - 1:
            return -1
        region = ctx.regions[found]
        offset = address - region.guest_address
        piece = min(length, region.length - offset)
        set_iovec(ctx, slot, region.host_address + offset, piece)
        slot += 1
        address += piece
        length -= piece
    return slot


@inlined
def gather(ctx: Context, target: int, slot: int, size: int) -> None:
    """Copy the first ``size`` bytes of the buffers from ``slot`` on to ``target``; they hold that many."""
    done = 0
    while done < size:
        piece = min(iovec_length(ctx, slot), size - done)
        copy(target + done, iovec_base(ctx, slot), piece)
        done += piece
        slot += 1


@inlined
def scatter(ctx: Context, slot: int, skip: int, source: int, size: int) -> None:
    """Copy ``size`` bytes to the buffers from ``slot`` on, past their first ``skip``; they hold that many."""
    while skip >= iovec_length(ctx, slot):
        skip -= iovec_length(ctx, slot)
        slot += 1
    done = 0
    while done < size:
        piece = min(iovec_length(ctx, slot) - skip, size - done)
        copy(iovec_base(ctx, slot) + skip, source + done, piece)
        done += piece
        skip = 0
        slot += 1


@compiled
def fetch(ctx: Context, slot: int, end: int) -> None:
    """Have the buffers in the slots from ``slot`` to ``end`` on their way to this processor's cache."""
    while slot < end:
        line = iovec_base(ctx, slot)
        behind = line + iovec_length(ctx, slot)
        while line < behind:
            prefetch(line)
            line += CACHE_LINE
        slot += 1


@compiled
def strip(ctx: Context, slot: int, size: int) -> int:
    """Cut ``size`` bytes off the buffers from ``slot`` on, which hold more; returns the first that is left."""
    while iovec_length(ctx, slot) <= size:
        size -= iovec_length(ctx, slot)
        slot += 1
    set_iovec(ctx, slot, iovec_base(ctx, slot) + size, iovec_length(ctx, slot) - size)
    return slot


@compiled
def indirect_table(ctx: Context, address: int, size: int, slot: int) -> int:
    """Where the indirect table of ``size`` bytes can be read, or 0.

    A table within one region is read in place, a field once; one that crosses regions from a private copy.
    Slots from ``slot`` on are overwritten.
    """
    end = translate(ctx, address, size, slot)
    if end < 0:
        return 0
    if end == slot + 1:
        return iovec_base(ctx, slot)
    gather(ctx, ctx.worker[0].table, slot, size)
    return int(ctx.worker[0].table)


@compiled
def begin_walk(ctx: Context) -> None:
    """Begin a chain: none of its bytes are counted, and it has no fault."""
    worker = ctx.worker[0]
    worker.total = 0
    worker.readable = 0
    worker.fault = 0


@compiled
def append_buffer(ctx: Context, address: int, length: int, flags: int, slot: int, direction: int) -> int:
    """Check and translate one buffer of the chain under way; the next slot, or -1 and ``worker.fault``."""
    worker = ctx.worker[0]
    worker.total += length
    worker.fault = _buffer_fault(flags, length, worker.total, worker.readable, direction)
    if worker.fault:
        return -1
    if not flags & DESC_F_WRITE:
        worker.readable = worker.total
    slot = translate(ctx, address, length, slot)
    if slot < 0:
        worker.fault = _ADDRESS_RANGE
    return slot


@inlined
def translate_single(ctx: Context, address: int, length: int, flags: int, slot: int, direction: int) -> int:
    """Translate a chain of one direct buffer in the region last used, as nearly all are.

    Returns:
        The next slot, or 0 where the chain is another, or wrong, and has to be walked.
    """
    worker = ctx.worker[0]
    region = ctx.regions[worker.last_region]
    if flags & (DESC_F_NEXT | DESC_F_WRITE | DESC_F_INDIRECT) != direction or length == 0:
        return 0
    # The first comparison keeps the difference in the second from wrapping: a region's address is not negative.
    if address < region.guest_address or address - region.guest_address > region.length - length:
        return 0
    if slot >= MAX_IOVECS - 1:
        return 0
    set_iovec(ctx, slot, region.host_address + (address - region.guest_address), length)
    worker.total = length
    worker.readable = 0 if direction else length
    worker.fault = 0
    worker.descriptors = 1
    return slot + 1


@compiled
def walk(ctx: Context, ring_index: int, head: int, slot: int, direction: int) -> int:
    """Translate the chain that begins at ``head`` of a split ring into iovecs from ``slot`` on.

    ``worker.readable`` is left holding the bytes of its device-readable part, ``worker.descriptors`` the number
    of entries it takes in the ring's own table.

    Args:
        ctx: the worker's context.
        ring_index: whose descriptor table.
        head: as read from the available ring, unchecked.
        slot: the first iovec to fill.
        direction: ``READABLE``, ``WRITABLE`` or ``EITHER``.

    Returns:
        The slot after the last one filled, or -1 with the reason in ``worker.fault``.
    """
    ring = ctx.rings[ring_index]
    worker = ctx.worker[0]
    begin_walk(ctx)
    table = ring.descriptors
    entries = ring.entries
    index = head
    steps = 0
    direct = 0
    indirect = False
    following = True
    if head >= entries:
        worker.fault = _HEAD_RANGE
    while following and worker.fault == 0:
        # index < entries, and table holds that many descriptors.
        descriptor = table + DESCRIPTOR_BYTES * index
        address = descriptor_address(descriptor)
        length = descriptor_length(descriptor)
        flags = descriptor_flags(descriptor)
        index = descriptor_next(descriptor)
        steps += 1
        direct += not indirect
        if flags & DESC_F_INDIRECT:
            worker.fault = indirect_fault(ring.indirect, indirect, flags, length)
            if worker.fault == 0:
                table = indirect_table(ctx, address, length, slot)
                worker.fault = _ADDRESS_RANGE if table == 0 else 0
            entries = length // DESCRIPTOR_BYTES
            indirect = True
            index = 0
            steps = 0
            continue
        slot = append_buffer(ctx, address, length, flags, slot, direction)
        following = flags & DESC_F_NEXT != 0
        if following and worker.fault == 0:
            worker.fault = _next_fault(index, steps, entries)
    worker.descriptors = direct
    return slot if worker.fault == 0 else -1


@compiled
def _buffer_fault(flags: int, length: int, total: int, readable: int, direction: int) -> int:
    """What is wrong with a buffer's descriptor, or 0; ``total`` counts it in, ``readable`` does not."""
    writable = flags & DESC_F_WRITE
    # Once a buffer was device-writable, none may be device-readable again (2.7.4.2).
    if direction not in (EITHER, writable) or (writable == 0 and readable != total - length):
        return _DIRECTION
    if length == 0:
        return _ZERO_LENGTH
    if total > MAX_CHAIN_BYTES:
        return _CHAIN_LENGTH
    return 0


@compiled
def _next_fault(following: int, steps: int, entries: int) -> int:
    """What is wrong with going on to ``following``, or 0: a chain is no longer than its table."""
    if following >= entries:
        return _NEXT_RANGE
    if steps >= entries:
        return _CHAIN_LOOP
    return 0


@compiled
def indirect_fault(negotiated: int, nested: bool, flags: int, length: int) -> int:
    """What is wrong with a descriptor that refers to an indirect table (2.7.5.3.1), or 0."""
    if not negotiated:
        return _INDIRECT_NOT_NEGOTIATED
    if nested:
        return _INDIRECT_NESTED
    if flags & DESC_F_NEXT:
        return _INDIRECT_WITH_NEXT
    if length == 0 or length % DESCRIPTOR_BYTES:
        return _INDIRECT_LENGTH
    if length > DESCRIPTOR_BYTES * MAX_SEGMENTS:
        return _TOO_MANY_SEGMENTS
    return 0


@inlined
def chain_bytes(ctx: Context, begin: int, end: int) -> int:
    """Bytes of the buffers in slots ``begin`` to ``end``."""
    total = 0
    for slot in range(begin, end):
        total += iovec_length(ctx, slot)
    return total
