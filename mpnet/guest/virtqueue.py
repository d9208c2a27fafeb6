"""The driver's half of a virtqueue, split or packed (VIRTIO 1.3, 2.7.13 and 2.7.14, 2.8.19 to 2.8.22).

Compiled functions over a ``Virtqueue``: ``add`` chains, ``notify`` the device of them, ``take`` back what it
used. One thread works a queue at a time. The descriptor table belongs to shared memory, so the driver keeps its
own links and never believes what it reads there: a device that returns a chain it does not hold is caught.
"""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mpnet.guest import packed_virtqueue as packed_queue
from mpnet.guest.memory import GuestMemory
from mpnet.jit.compile import compiled
from mpnet.jit.memory import fence
from mpnet.jit.syscalls import write
from mpnet.virtio import packed_ring
from mpnet.virtio import split_ring as ring
from mpnet.virtio.split_ring import DESC_F_NEXT, DESCRIPTOR_BYTES, USED_F_NO_NOTIFY

Chain: TypeAlias = NDArray[np.int64]
"""Descriptors of one chain, shape ``(n, 3)``: guest address, length, flags (WRITE, INDIRECT; NEXT is added)."""

NOTHING = -1
"""From ``take``: the device has returned nothing new. From ``add``: there is no room now."""
BROKEN = -2
"""From ``take``: the device returned what it does not hold; the queue is of no more use."""
_ALL = 0xFFFF

STATE = np.dtype(
    [
        ("descriptors", "i8"),  # host addresses of the three parts
        ("avail", "i8"),
        ("used", "i8"),
        ("entries", "i8"),  # not "size": of a record, that is numpy's own attribute
        ("event_idx", "i8"),
        ("kick_fd", "i8"),  # -1: the device polls
        ("one", "i8"),  # host address of what is written to the kick: 8 bytes, of an eventfd
        ("one_bytes", "i8"),
        ("one_value", "i8"),
        ("free_head", "i8"),
        ("free_count", "i8"),
        ("avail_index", "i8"),
        ("notified", "i8"),  # avail index at the last decision to kick
        ("used_index", "i8"),
        ("used_seen", "i8"),
        ("packed", "i8"),
        ("next", "i8"),  # packed: cursor of the next descriptor to fill
        ("used_cursor", "i8"),  # packed: cursor of the next chain to be returned
        ("added", "i8"),  # packed: descriptors since the last decision to kick
        ("kicks", "i8"),
        ("kicks_suppressed", "i8"),
        ("calls", "i8"),
        ("broken", "i8"),
    ]
)


class Virtqueue(NamedTuple):
    """What the driver knows of one queue.

    Attributes:
        state: one record of ``STATE``, shape ``(1,)``.
        links: our copy of each descriptor's ``next``, also of free ones; int64, shape ``(size,)``.
        lengths: descriptors of the chain that starts here and is with the device, else 0; int64, ``(size,)``.
    """

    state: Any
    links: NDArray[np.int64]
    lengths: NDArray[np.int64]


class Addresses(NamedTuple):
    """Where the parts of a queue lie, as guest addresses or as host addresses."""

    descriptors: int
    avail: int
    used: int


def allocate(memory: GuestMemory, size: int) -> Addresses:
    """Set aside zeroed memory for a queue of ``size`` descriptors; return guest addresses (2.7)."""
    return Addresses(
        memory.allocate(ring.descriptor_table_bytes(size), 16),
        memory.allocate(ring.avail_bytes(size)),
        memory.allocate(ring.used_bytes(size)),
    )


def host_addresses(memory: GuestMemory, guest: Addresses, size: int) -> Addresses:
    """The same queue's addresses in this process."""
    return Addresses(
        memory.host_address(guest.descriptors, ring.descriptor_table_bytes(size)),
        memory.host_address(guest.avail, ring.avail_bytes(size)),
        memory.host_address(guest.used, ring.used_bytes(size)),
    )


def make_virtqueue(
    host: Addresses, size: int, kick_fd: int = -1, *, event_idx: bool = False, packed: bool = False
) -> Virtqueue:
    """A queue with every descriptor free, over parts at host addresses that are all zero.

    Raises:
        ValueError: a queue cannot have ``size`` descriptors (2.7, 2.8.10.1).
    """
    if not packed and (size & (size - 1) or size < ring.MIN_SIZE):
        raise ValueError(f"a split virtqueue of {size} descriptors: expected a power of two, 2 to 32768")
    if not 1 <= size <= ring.MAX_SIZE:
        raise ValueError(f"a virtqueue of {size} descriptors: expected 1 to 32768")
    state = np.zeros(1, STATE).view(np.recarray)
    record = state[0]
    record.descriptors, record.avail, record.used = host
    record.entries = record.free_count = size
    record.event_idx, record.kick_fd = int(event_idx), kick_fd
    record.packed = int(packed)
    record.next = record.used_cursor = packed_ring.FIRST_CURSOR
    record.one_value, record.one_bytes = 1, 8
    record.one = state.ctypes.data + STATE.fields["one_value"][1]  # type: ignore[index]  # a record has fields
    links = np.arange(1, size + 1, dtype=np.int64)
    return Virtqueue(state, links, np.zeros(size, np.int64))


@compiled
def add(queue: Virtqueue, chain: Chain, count: int) -> int:
    """Place the first ``count`` rows of ``chain`` at the device's disposal (2.7.13.1, 2.7.13.2).

    The device sees it after ``notify``. Returns the head, which ``take`` will name, or ``NOTHING``.
    """
    state = queue.state[0]
    if count < 1 or count > state.free_count:
        return NOTHING
    if state.packed:
        return packed_queue.add_rows(queue, chain, count)
    head = state.free_head
    index = head
    for row in range(count):
        following = queue.links[index]
        last = row + 1 == count
        ring.write_descriptor(
            state.descriptors + DESCRIPTOR_BYTES * index,
            chain[row, 0],
            chain[row, 1],
            chain[row, 2] if last else chain[row, 2] | DESC_F_NEXT,
            0 if last else following,
        )
        index = following
    state.free_head = index
    return _offer(queue, head, count)


@compiled
def add_one(queue: Virtqueue, address: int, length: int, flags: int) -> int:
    """``add`` for a chain of one descriptor, without an array; there must be a free descriptor."""
    state = queue.state[0]
    if state.packed:
        packed_queue.add_row(queue, state.next, address, length, flags)
        return packed_queue.offer(queue, 1)
    head = state.free_head
    ring.write_descriptor(state.descriptors + DESCRIPTOR_BYTES * head, address, length, flags, 0)
    state.free_head = queue.links[head]
    return _offer(queue, head, 1)


@compiled
def _offer(queue: Virtqueue, head: int, count: int) -> int:
    state = queue.state[0]
    state.free_count -= count
    queue.lengths[head] = count
    ring.set_avail_entry(state.avail, state.avail_index, state.entries, head)
    state.avail_index = (state.avail_index + 1) & _ALL
    return head


@compiled
def notify(queue: Virtqueue) -> bool:
    """Show the device what was added (2.7.13.3) and kick it if it wants that (2.7.13.4); tell whether it did."""
    state = queue.state[0]
    if state.packed:
        if state.added == 0:
            return False
        wanted = packed_queue.kick_wanted(queue)
    else:
        if state.notified == state.avail_index:
            return False
        wanted = _show(queue)
    if wanted:
        kick(queue)
    else:
        state.kicks_suppressed += 1
    return wanted


@compiled
def _show(queue: Virtqueue) -> bool:
    """Show a split queue's device what was added; whether it wants a kick for that."""
    state = queue.state[0]
    ring.publish_avail(state.avail, state.avail_index)
    fence()  # the device sees the index before we read whether it sleeps, or both would wait
    if state.event_idx != 0:
        wanted = ring.need_event(ring.avail_event(state.used, state.entries), state.avail_index, state.notified)
    else:
        wanted = ring.used_flags(state.used) & USED_F_NO_NOTIFY == 0
    state.notified = state.avail_index
    return bool(wanted)


@compiled
def kick(queue: Virtqueue) -> None:
    """Kick the device whether it asks for it or not."""
    state = queue.state[0]
    if state.kick_fd >= 0:
        write(state.kick_fd, state.one, state.one_bytes)
        state.kicks += 1


@compiled
def take(queue: Virtqueue) -> tuple[int, int]:
    """Take one chain back from the device (2.7.14): its head and the bytes the device wrote.

    Its descriptors are free again. The head is ``NOTHING`` when there is none, ``BROKEN`` when the device
    returned a chain it does not hold or more chains than it holds.
    """
    state = queue.state[0]
    if state.broken != 0:
        return BROKEN, 0
    if state.packed:
        return packed_queue.take_returned(queue) if packed_queue.is_returned(queue) else (NOTHING, 0)
    if state.used_index == state.used_seen:
        state.used_seen = ring.used_index(state.used)
        if state.used_index == state.used_seen:
            return NOTHING, 0
    head = ring.used_entry_id(state.used, state.used_index, state.entries)
    length = ring.used_entry_length(state.used, state.used_index, state.entries)
    if head >= state.entries or queue.lengths[head] == 0:
        state.broken = 1
        return BROKEN, 0
    state.used_index = (state.used_index + 1) & _ALL
    _release(queue, head)
    return head, length


@compiled
def is_returned(queue: Virtqueue) -> bool:
    """Whether the device has returned something that was not taken back yet; nothing is asked of it."""
    state = queue.state[0]
    if state.packed:
        return packed_queue.is_returned(queue)
    return bool(ring.used_index(state.used) != state.used_index)


@compiled
def _release(queue: Virtqueue, head: int) -> None:
    state = queue.state[0]
    last = head
    for _ in range(queue.lengths[head] - 1):
        last = queue.links[last]
    queue.links[last] = state.free_head
    state.free_head = head
    state.free_count += queue.lengths[head]
    queue.lengths[head] = 0


@compiled
def suppress_calls(queue: Virtqueue) -> None:
    """Ask for no call for now (2.7.7). With EVENT_IDX that holds for 65535 chains: repeat it."""
    state = queue.state[0]
    if state.packed:
        packed_queue.refuse_calls(queue)
    elif state.event_idx != 0:
        ring.set_used_event(state.avail, state.entries, (state.used_index - 1) & _ALL)
    else:
        ring.set_avail_flags(state.avail, ring.AVAIL_F_NO_INTERRUPT)


@compiled
def request_call(queue: Virtqueue) -> bool:
    """Ask for a call at the next used chain; tell whether one is there already, for which none may come."""
    state = queue.state[0]
    if state.packed:
        return packed_queue.want_call(queue)
    if state.event_idx != 0:
        ring.set_used_event(state.avail, state.entries, state.used_index)
    else:
        ring.set_avail_flags(state.avail, 0)
    fence()  # the device sees the request before we look, or both would wait
    pending: bool = ring.used_index(state.used) != state.used_index
    return pending
