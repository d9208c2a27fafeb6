"""The device's half of a virtqueue, split or packed: taking, returning, kicks and calls (VIRTIO 1.3, 2.7, 2.8).

A burst is ``open_burst``, any number of ``take`` and ``give_back`` in the same order, and ``close_burst``, which
shows the driver what was given back. What was taken and not given back by then is available again.
"""

from mpnet.jit.compile import compiled, inlined
from mpnet.jit.memory import fence, prefetch, prefetch_to_write
from mpnet.jit.syscalls import write
from mpnet.segment.layout import CACHE_LINE, Fault, RingState
from mpnet.segment.trace import Kind
from mpnet.virtio import packed_ring
from mpnet.virtio.split_ring import (
    AVAIL_F_NO_INTERRUPT,
    DESCRIPTOR_BYTES,
    USED_F_NO_NOTIFY,
    avail_entry,
    avail_flags,
    avail_index,
    descriptor_address,
    descriptor_flags,
    descriptor_length,
    need_event,
    publish_used,
    set_avail_event,
    set_used_entry,
    set_used_flags,
    used_event,
)
from mpnet.workers.chain import translate_single, walk
from mpnet.workers.packed import (
    is_chain_available,
    make_place,
    note_used,
    take_packed,
    write_log,
)
from mpnet.workers.state import Context
from mpnet.workers.trace import trace

_AHEAD = 4
"""Chains: some 250 ns of a coalescing worker's time, in which a line comes from a processor that is far away."""
_AVAIL_INDEX = int(Fault.AVAIL_INDEX)
_MEMORY_LOST = int(Fault.MEMORY_LOST)
_BROKEN = int(RingState.BROKEN)
_RING_BROKEN = int(Kind.RING_BROKEN)


@compiled
def open_burst(ctx: Context, index: int) -> bool:
    """Begin a burst; whether there is a chain to take.

    A split ring is broken, and False, when the driver's index runs further ahead than the ring is long: clamping
    it would hand out chains twice.
    """
    ring = ctx.rings[index]
    ring.cursor = ring.returned = ring.place
    ring.logged = 0
    if ring.packed:
        return is_chain_available(ctx, index, ring.place)
    ring.limit = avail_index(ring.avail)
    pending = (ring.limit - ring.place) & 0xFFFF
    if pending > ring.entries:
        break_ring(ctx, index, _AVAIL_INDEX)
        return False
    return bool(pending > 0)


@inlined
def look_again(ctx: Context, index: int) -> None:
    """Let a burst go on with what the driver has made available since it began, once all else is taken.

    A packed ring shows that by itself. What is wrong with a split ring's index is for the next burst to find.
    """
    ring = ctx.rings[index]
    if not ring.packed and ring.cursor == ring.limit:
        limit = avail_index(ring.avail)
        # Behind the cursor it would name chains that were taken already.
        if (ring.cursor - ring.place) & 0xFFFF <= (limit - ring.place) & 0xFFFF <= ring.entries:
            ring.limit = limit


@inlined
def take(ctx: Context, index: int, slot: int, direction: int) -> int:
    """Take the next chain and translate it into iovecs from ``slot`` on (2.7.13, 2.8.21).

    Returns the slot after the last one filled, which is above ``slot``; 0 when there is no chain; -1, with the
    reason in ``worker.fault``, when it is none. ``worker.buffer_id`` and ``worker.span`` are for ``give_back``.
    """
    ring = ctx.rings[index]
    worker = ctx.worker[0]
    if ring.packed:
        return take_packed(ctx, index, slot, direction)
    if ring.cursor == ring.limit:
        return 0
    head = avail_entry(ring.avail, ring.cursor, ring.entries)
    worker.buffer_id = head
    worker.span = 1
    ring.cursor = (ring.cursor + 1) & 0xFFFF
    if head < ring.entries:
        descriptor = ring.descriptors + DESCRIPTOR_BYTES * head
        flags, length = descriptor_flags(descriptor), descriptor_length(descriptor)
        end = translate_single(ctx, descriptor_address(descriptor), length, flags, slot, direction)
        if end > 0:
            return end
    # Everything is read anew and checked there.
    return walk(ctx, index, head, slot, direction)


@inlined
def fetch_ahead(ctx: Context, index: int) -> None:
    """Have the headers of a chain some way behind the next one on their way from the driver's processor."""
    start = _start_ahead(ctx, index)
    prefetch(start)
    prefetch(start + CACHE_LINE)


@inlined
def fetch_ahead_to_write(ctx: Context, index: int) -> None:
    """Likewise the first two lines of a chain for the device to write: the driver's processor loses them."""
    start = _start_ahead(ctx, index)
    prefetch_to_write(start)
    prefetch_to_write(start + CACHE_LINE)


@inlined
def _start_ahead(ctx: Context, index: int) -> int:
    """Where a chain some way behind the next one begins, if the driver has added it, to be prefetched.

    What the descriptor says is not checked but kept within a region: a prefetch has no fault, but how long it
    takes would tell the guest which addresses of this process, and of the kernel, are mapped.
    """
    ring = ctx.rings[index]
    region = ctx.regions[ctx.worker[0].last_region]
    if ring.packed:
        cursor = packed_ring.advance(ring.cursor, min(_AHEAD, ring.entries), ring.entries)
        descriptor = packed_ring.descriptor_at(ring.descriptors, cursor)
    else:
        # Beyond the driver's index stand heads of the last time round: what they name is fetched in vain.
        head = avail_entry(ring.avail, ring.cursor + _AHEAD, ring.entries)
        descriptor = ring.descriptors + DESCRIPTOR_BYTES * (head & (ring.entries - 1))
    address = descriptor_address(descriptor)
    if address < region.guest_address or address - region.guest_address >= region.length:
        return int(region.host_address)
    return int(region.host_address + (address - region.guest_address))


@inlined
def give_back(ctx: Context, index: int, buffer_id: int, span: int, length: int) -> None:
    """Return a chain with ``length`` bytes written; the driver sees it when the burst is closed."""
    ring = ctx.rings[index]
    if ring.packed:
        note_used(ctx, index, span, buffer_id, length)
        ring.returned = packed_ring.advance(ring.returned, span, ring.entries)
        ring.moved += span
    else:
        set_used_entry(ring.used, ring.returned, ring.entries, buffer_id, length)
        ring.returned = (ring.returned + 1) & 0xFFFF


@compiled
def close_burst(ctx: Context, index: int) -> None:
    """Show the driver what was given back and call it once if it wants that (2.7.8.2, 2.8.8).

    The place in the ring is stored in shared memory first: see ``segment.layout`` for what a crash in between
    leaves behind.
    """
    ring = ctx.rings[index]
    shared = ctx.shared[index]
    began = ring.place
    if ring.returned == began and ring.logged == 0:
        return
    ring.place = ring.cursor = ring.returned
    if ring.packed:
        shared.place = make_place(ring.place, began, ring.logged)
        write_log(ctx, index, ring.log, began, ring.logged)
    else:
        shared.place = ring.place
        publish_used(ring.used, ring.place)
    call(ctx, index)


@compiled
def available_entries(ctx: Context, index: int) -> int:
    """Entries of chains that are not given back: those available when the burst began; packed, those taken."""
    ring = ctx.rings[index]
    end = ring.cursor if ring.packed else ring.limit
    return int((end - ring.returned) & 0xFFFF)


@compiled
def refuse_kicks(ctx: Context, index: int) -> None:
    """Tell the driver that kicks are not needed while the ring is being served (2.7.10, 2.8.14).

    With EVENT_IDX a split ring's avail_event that stays behind says so by itself.
    """
    ring = ctx.rings[index]
    if not ring.kicks_wanted:
        return
    ring.kicks_wanted = 0
    if ring.packed:
        packed_ring.set_event(ring.used, 0, packed_ring.EVENT_DISABLE)
    elif not ring.event_idx:
        set_used_flags(ring.used, USED_F_NO_NOTIFY)


@compiled
def want_kicks(ctx: Context, index: int) -> bool:
    """Ask for a kick at the chain behind those taken; True when it came before the driver could see that.

    True as well when the ring is polled: for a while, or always where the front-end gave no fd for kicks.
    """
    if ctx.rings[index].kick_fd < 0 or ctx.worker[0].polling:
        return True
    return ask_for_kick(ctx, index)


@compiled
def ask_for_kick(ctx: Context, index: int) -> bool:
    """What ``want_kicks`` does for a ring that is not polled.

    Between the ask and the look stands a full fence: without it the look may be done first, the driver may add
    its chain after the look and before it sees the ask, and both sides wait for ever.
    """
    ring = ctx.rings[index]
    ring.kicks_wanted = 1
    if ring.packed:
        flags = packed_ring.EVENT_DESC if ring.event_idx else packed_ring.EVENT_ENABLE
        packed_ring.set_event(ring.used, ring.cursor, flags)
        fence()
        return is_chain_available(ctx, index, ring.cursor)
    if ring.event_idx:
        set_avail_event(ring.used, ring.entries, ring.cursor)
    else:
        set_used_flags(ring.used, 0)
    fence()
    return bool(avail_index(ring.avail) != ring.cursor)


@compiled
def call(ctx: Context, index: int) -> None:
    """Call the driver unless it said that it need not know (2.7.7.2, 2.8.14).

    The fence keeps the look at the driver's wish behind what was published, as in ``want_kicks``.
    """
    ring = ctx.rings[index]
    shared = ctx.shared[index]
    fence()
    wanted = ring.signalled < 0 or (_packed_call_wanted(ctx, index) if ring.packed else _call_wanted(ctx, index))
    ring.signalled = ring.place
    ring.moved = 0
    if wanted and ring.call_fd >= 0:
        write(ring.call_fd, ctx.worker[0].one, 8)
        shared.calls += 1
    else:
        shared.calls_suppressed += 1


@compiled
def _call_wanted(ctx: Context, index: int) -> bool:
    ring = ctx.rings[index]
    if ring.event_idx:
        return need_event(used_event(ring.avail, ring.entries), ring.place, ring.signalled)
    return bool(avail_flags(ring.avail) & AVAIL_F_NO_INTERRUPT == 0)


@compiled
def _packed_call_wanted(ctx: Context, index: int) -> bool:
    ring = ctx.rings[index]
    flags = packed_ring.event_flags(ring.avail)
    if flags == packed_ring.EVENT_DESC and ring.event_idx:
        event = packed_ring.event_cursor(ring.avail)
        return packed_ring.passes_event(event, ring.place, ring.moved, ring.entries)
    return bool(flags != packed_ring.EVENT_DISABLE)


@compiled
def break_ring(ctx: Context, index: int, fault: int) -> None:
    """The guest broke this ring: serve it no more until it is set up anew, and say so on its error fd."""
    ring = ctx.rings[index]
    shared = ctx.shared[index]
    ring.started = 0
    ring.ready = 0
    shared.fault = fault
    shared.faults += 1
    shared.state = _BROKEN
    ctx.worker[0].broken = 1
    trace(ctx, _RING_BROKEN, index, fault, ring.place)
    if ring.err_fd >= 0:
        write(ring.err_fd, ctx.worker[0].one, 8)


@inlined
def memory_was_lost(ctx: Context, index: int) -> bool:
    """Whether guest memory vanished while this ring was served; then the ring is broken."""
    worker = ctx.worker[0]
    if worker.memory_lost == worker.memory_lost_seen:
        return False
    worker.memory_lost_seen = worker.memory_lost
    break_ring(ctx, index, _MEMORY_LOST)
    return True
