"""Packed virtqueues: where each field lies and how it is read and written (VIRTIO 1.3, 2.8).

One ring of descriptors serves both directions. A *cursor* names a place in it as the specification's off_wrap
does: the position in the low 15 bits and the wrap counter of whoever the cursor belongs to in bit 15. A position
is below the ring's size, which is any number up to 32768, so an access never leaves the ring.
"""

from mpnet.jit.compile import compiled
from mpnet.jit.memory import (
    load_acquire_i64,
    load_acquire_u16,
    load_u16,
    store_i64,
    store_release_i64,
    store_release_u16,
    store_u16,
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
def descriptor_flags(descriptor: int) -> int:
    """le16 flags; what the other side wrote before them is visible after (2.8.1)."""
    return load_acquire_u16(descriptor + 14)


@compiled
def handover(descriptor: int) -> int:
    """All of a descriptor but its address, read at once: it is aligned to 16 bytes (2.8.10.1).

    What the other side wrote before the flags in it is visible after (2.8.1).
    """
    return load_acquire_i64(descriptor + 8)


@compiled
def hand_over(descriptor: int, word: int) -> None:
    """Write all of a descriptor but its address at once, after all else that was written before (2.8.1)."""
    store_release_i64(descriptor + 8, word)


@compiled
def make_handover(length: int, buffer_id: int, flags: int) -> int:
    """What ``hand_over`` writes: le32 length, le16 id, le16 flags (2.8.5)."""
    return length | buffer_id << 32 | flags << 48


@compiled
def handover_length(word: int) -> int:
    """le32 len: bytes of an available descriptor's buffer, or bytes written (2.8.5)."""
    return word & 0xFFFFFFFF


@compiled
def handover_id(word: int) -> int:
    """le16 id: the buffer id, in the last descriptor of a chain (2.8.6)."""
    return word >> 32 & 0xFFFF


@compiled
def handover_flags(word: int) -> int:
    """le16 flags (2.8.5)."""
    return word >> 48 & 0xFFFF


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
def set_descriptor_address(descriptor: int, address: int) -> None:
    """le64 addr of an available descriptor; a used one's has no meaning (2.8.5)."""
    store_i64(descriptor, address)


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
