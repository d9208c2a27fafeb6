"""Packed virtqueues: where each field lies and how it is read and written (VIRTIO 1.3, 2.8).

One ring of descriptors serves both directions. A *cursor* names a place in it as the specification's off_wrap
does: the position in the low 15 bits and the wrap counter of whoever the cursor belongs to in bit 15. A position
is below the ring's size, which is any number up to 32768, so an access never leaves the ring.
"""

from mpnet.jit.compile import compiled
from mpnet.jit.memory import (
    load_acquire_u16,
    load_u16,
    store_i64,
    store_release_u16,
    store_u16,
    store_u32,
)
from mpnet.virtio.split_ring import DESCRIPTOR_BYTES

MAX_SIZE = 32768
EVENT_BYTES = 4
"""Bytes of an event suppression structure (2.8.14), aligned to 4."""
FIRST_CURSOR = 0x8000
"""Position 0 with the wrap counter at 1: where both sides begin (2.8.1)."""

DESC_F_AVAIL = 1 << 7
DESC_F_USED = 1 << 15
EVENT_ENABLE = 0
EVENT_DISABLE = 1
EVENT_DESC = 2

_POSITION = 0x7FFF
_WRAP = 0x8000


@compiled
def position(cursor: int) -> int:
    """Position of a cursor, which is below the ring's size."""
    return cursor & _POSITION


@compiled
def wraps(cursor: int) -> int:
    """Wrap counter of a cursor: 0 or 1 (2.8.1)."""
    return cursor >> 15


@compiled
def advance(cursor: int, count: int, size: int) -> int:
    """The cursor ``count`` descriptors on, at most a ring's size."""
    moved = (cursor & _POSITION) + count
    if moved >= size:
        return (moved - size) | ((cursor & _WRAP) ^ _WRAP)
    return moved | (cursor & _WRAP)


@compiled
def descriptor_at(table: int, cursor: int) -> int:
    """Address of the descriptor at a cursor."""
    return table + DESCRIPTOR_BYTES * (cursor & _POSITION)


@compiled
def descriptor_id(descriptor: int) -> int:
    """le16 id: the buffer id, in the last descriptor of a chain (2.8.6)."""
    return load_u16(descriptor + 12)


@compiled
def descriptor_flags(descriptor: int) -> int:
    """le16 flags; what the other side wrote before them is visible after (2.8.1)."""
    return load_acquire_u16(descriptor + 14)


@compiled
def set_descriptor_flags(descriptor: int, flags: int) -> None:
    """Write the flags, last of all fields: they hand the descriptor over (2.8.1)."""
    store_release_u16(descriptor + 14, flags)


@compiled
def is_available(flags: int, wrap: int) -> bool:
    """Whether flags mark a descriptor as available to a device whose wrap counter is ``wrap`` (2.8.1)."""
    return (flags >> 7 & 1) == wrap and (flags >> 15 & 1) != wrap


@compiled
def is_used(flags: int, wrap: int) -> bool:
    """Whether flags mark a descriptor as used to a driver whose used wrap counter is ``wrap`` (2.8.1)."""
    return (flags >> 7 & 1) == wrap and (flags >> 15 & 1) == wrap


@compiled
def available_flags(wrap: int) -> int:
    """The flags that make a descriptor available (2.8.1): the driver's side."""
    return DESC_F_AVAIL if wrap else DESC_F_USED


@compiled
def used_flags(wrap: int) -> int:
    """The flags that mark a descriptor as used (2.8.1): the device's side."""
    return (DESC_F_AVAIL | DESC_F_USED) if wrap else 0


@compiled
def write_descriptor(descriptor: int, address: int, length: int, buffer_id: int) -> None:
    """Fill all of a descriptor but its flags (2.8.5)."""
    store_i64(descriptor, address)
    write_used(descriptor, length, buffer_id)


@compiled
def write_used(descriptor: int, length: int, buffer_id: int) -> None:
    """Fill all of a used descriptor but its flags (2.8.5.1): the address has no meaning."""
    store_u32(descriptor + 8, length)
    store_u16(descriptor + 12, buffer_id)


@compiled
def event_cursor(event: int) -> int:
    """The cursor at which a notification is wanted, where the flags are ``EVENT_DESC`` (2.8.14)."""
    return load_u16(event)


@compiled
def event_flags(event: int) -> int:
    """Whether notifications are wanted: ``EVENT_ENABLE``, ``EVENT_DISABLE`` or ``EVENT_DESC`` (2.8.14)."""
    return load_u16(event + 2) & 3


@compiled
def set_event(event: int, cursor: int, flags: int) -> None:
    """Say when a notification is wanted; the cursor is in place before the flags refer to it (2.8.14)."""
    store_u16(event, cursor)
    store_release_u16(event + 2, flags)


@compiled
def passes_event(event: int, cursor: int, moved: int, size: int) -> bool:
    """Whether the ``moved`` descriptors up to ``cursor`` pass the one that ``event`` names (2.8.14, 2.7.7.2)."""
    wanted = event & _POSITION
    # Behind a wrap, the event's place in the same count as the cursor's.
    if event >> 15 != cursor >> 15:
        wanted -= size
    new = cursor & _POSITION
    return ((new - wanted - 1) & 0xFFFF) < (moved & 0xFFFF)
