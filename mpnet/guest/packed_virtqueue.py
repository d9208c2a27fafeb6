"""The driver's half of a packed virtqueue (VIRTIO 1.3, 2.8.19 to 2.8.22), behind ``mpnet.guest.virtqueue``.

A buffer's id is what a chain's head is in a split queue: what ``take`` names, and the index of what the driver
keeps of it. Free ids are linked as free descriptors are there.
"""

from typing import Any

from mpnet.jit.compile import compiled
from mpnet.jit.memory import fence
from mpnet.virtio import packed_ring as ring
from mpnet.virtio.split_ring import DESC_F_NEXT


@compiled
def add_row(queue: Any, cursor: int, address: int, length: int, flags: int) -> None:
    """Fill the descriptor at ``cursor`` and hand it to the device; of a chain, the first one last (2.8.21)."""
    state = queue.state[0]
    descriptor = ring.descriptor_at(state.descriptors, cursor)
    ring.set_descriptor_address(descriptor, address)
    available = flags | ring.available_flags(ring.wraps(cursor))
    ring.hand_over(descriptor, ring.make_handover(length, state.free_head, available))


@compiled
def add_rows(queue: Any, chain: Any, count: int) -> int:
    """Hand a chain of ``count`` rows to the device; there is room for it. Returns its buffer id."""
    state = queue.state[0]
    first = state.next
    cursor = first
    for row in range(1, count):
        cursor = ring.advance(cursor, 1, state.entries)
        following = DESC_F_NEXT if row + 1 < count else 0
        add_row(queue, cursor, chain[row, 0], chain[row, 1], chain[row, 2] | following)
    following = DESC_F_NEXT if count > 1 else 0
    add_row(queue, first, chain[0, 0], chain[0, 1], chain[0, 2] | following)
    return offer(queue, count)


@compiled
def offer(queue: Any, count: int) -> int:
    """Note that the next free id is with the device, with ``count`` descriptors."""
    state = queue.state[0]
    buffer_id = state.free_head
    state.free_head = queue.links[buffer_id]
    state.free_count -= count
    state.added += count
    state.next = ring.advance(state.next, count, state.entries)
    queue.lengths[buffer_id] = count
    return int(buffer_id)


@compiled
def kick_wanted(queue: Any) -> bool:
    """Whether the device wants a kick for what was added since the last decision (2.8.22)."""
    state = queue.state[0]
    fence()  # the device sees the descriptors before we read whether it sleeps, or both would wait
    flags = ring.event_flags(state.used)
    added = state.added
    state.added = 0
    if flags == ring.EVENT_DESC:
        return ring.passes_event(ring.event_cursor(state.used), state.next, added, state.entries)
    return bool(flags == ring.EVENT_ENABLE)


@compiled
def is_returned(queue: Any) -> bool:
    """Whether the device has returned the next chain (2.8.1)."""
    state = queue.state[0]
    flags = ring.descriptor_flags(ring.descriptor_at(state.descriptors, state.used_cursor))
    return ring.is_used(flags, ring.wraps(state.used_cursor))


@compiled
def take_returned(queue: Any) -> tuple[int, int]:
    """Take back the chain that ``is_returned``: its id, or -2 when it is none, and the bytes written."""
    state = queue.state[0]
    used = ring.handover(ring.descriptor_at(state.descriptors, state.used_cursor))
    buffer_id = ring.handover_id(used)
    if buffer_id >= state.entries or queue.lengths[buffer_id] == 0:
        state.broken = 1
        return -2, 0
    count = queue.lengths[buffer_id]
    state.used_cursor = ring.advance(state.used_cursor, count, state.entries)
    queue.lengths[buffer_id] = 0
    queue.links[buffer_id] = state.free_head
    state.free_head = buffer_id
    state.free_count += count
    return int(buffer_id), ring.handover_length(used)


@compiled
def refuse_calls(queue: Any) -> None:
    """Ask for no call (2.8.14)."""
    ring.set_event(queue.state[0].avail, 0, ring.EVENT_DISABLE)


@compiled
def want_call(queue: Any) -> bool:
    """Ask for a call at the next chain returned; whether one is there already."""
    state = queue.state[0]
    flags = ring.EVENT_DESC if state.event_idx else ring.EVENT_ENABLE
    ring.set_event(state.avail, state.used_cursor, flags)
    fence()  # the device sees the request before we look, or both would wait
    return is_returned(queue)
