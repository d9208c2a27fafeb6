"""Split virtqueues: where each field lies and how it is read and written (VIRTIO 1.3, 2.7).

One-line accessors over the addresses of the descriptor table, the available ring and the used ring, used by
the device and by the driver. ``index`` is free-running and taken modulo ``size``, which is a power of two, so
an access never leaves the ring. What a *value* read from the other side may do is the caller's concern.
"""

from mpnet.jit.compile import compiled
from mpnet.jit.memory import (
    load_acquire_u16,
    load_i64,
    load_u16,
    load_u32,
    store_i64,
    store_release_u16,
    store_u16,
    store_u32,
)

MAX_SIZE = 32768
MIN_SIZE = 2
DESCRIPTOR_BYTES = 16
DESC_F_NEXT = 1
DESC_F_WRITE = 2
DESC_F_INDIRECT = 4
AVAIL_F_NO_INTERRUPT = 1
USED_F_NO_NOTIFY = 1


def descriptor_table_bytes(size: int) -> int:
    """Bytes of the descriptor table (2.7.5), aligned to 16."""
    return DESCRIPTOR_BYTES * size


def avail_bytes(size: int) -> int:
    """Bytes of the available ring with its used_event (2.7.6), aligned to 2."""
    return 6 + 2 * size


def used_bytes(size: int) -> int:
    """Bytes of the used ring with its avail_event (2.7.8), aligned to 4."""
    return 6 + 8 * size


@compiled
def descriptor_address(descriptor: int) -> int:
    """le64 addr of a descriptor (2.7.5), as a signed integer."""
    return load_i64(descriptor)


@compiled
def descriptor_length(descriptor: int) -> int:
    """le32 len of a descriptor (2.7.5)."""
    return load_u32(descriptor + 8)


@compiled
def descriptor_flags(descriptor: int) -> int:
    """le16 flags of a descriptor (2.7.5)."""
    return load_u16(descriptor + 12)


@compiled
def descriptor_next(descriptor: int) -> int:
    """le16 next of a descriptor (2.7.5)."""
    return load_u16(descriptor + 14)


@compiled
def write_descriptor(descriptor: int, address: int, length: int, flags: int, next_index: int) -> None:
    """Fill a descriptor (2.7.5): the driver's side."""
    store_i64(descriptor, address)
    store_u32(descriptor + 8, length)
    store_u16(descriptor + 12, flags)
    store_u16(descriptor + 14, next_index)


@compiled
def avail_flags(avail: int) -> int:
    """le16 flags of the available ring (2.7.6)."""
    return load_u16(avail)


@compiled
def set_avail_flags(avail: int, flags: int) -> None:
    """Write the available ring's flags: the driver's suppression of calls without EVENT_IDX (2.7.7)."""
    store_u16(avail, flags)


@compiled
def avail_index(avail: int) -> int:
    """idx of the available ring; what the driver published before it is visible after (2.7.6)."""
    return load_acquire_u16(avail + 2)


@compiled
def publish_avail(avail: int, index: int) -> None:
    """Expose the available ring up to ``index`` (2.7.13.3): the driver's side."""
    store_release_u16(avail + 2, index)


@compiled
def avail_entry(avail: int, index: int, size: int) -> int:
    """Head of the chain at a free-running index (2.7.6)."""
    return load_u16(avail + 4 + 2 * (index & (size - 1)))


@compiled
def set_avail_entry(avail: int, index: int, size: int, head: int) -> None:
    """Place a chain's head at a free-running index (2.7.13.2): the driver's side."""
    store_u16(avail + 4 + 2 * (index & (size - 1)), head)


@compiled
def used_event(avail: int, size: int) -> int:
    """The used index at which the driver wants a call (2.7.7.1, EVENT_IDX)."""
    return load_u16(avail + 4 + 2 * size)


@compiled
def set_used_event(avail: int, size: int, index: int) -> None:
    """Ask for a call once the used index passes ``index`` (2.7.7.1): the driver's side."""
    store_u16(avail + 4 + 2 * size, index)


@compiled
def used_flags(used: int) -> int:
    """le16 flags of the used ring (2.7.8)."""
    return load_u16(used)


@compiled
def set_used_flags(used: int, flags: int) -> None:
    """Write the used ring's flags: the device's suppression of kicks without EVENT_IDX (2.7.10)."""
    store_u16(used, flags)


@compiled
def used_index(used: int) -> int:
    """idx of the used ring; what the device published before it is visible after (2.7.8)."""
    return load_acquire_u16(used + 2)


@compiled
def publish_used(used: int, index: int) -> None:
    """Expose the used ring up to ``index`` (2.7.8.2): the device's side."""
    store_release_u16(used + 2, index)


@compiled
def used_entry_id(used: int, index: int, size: int) -> int:
    """Head of the chain returned at a free-running index (2.7.8)."""
    return load_u32(used + 4 + 8 * (index & (size - 1)))


@compiled
def used_entry_length(used: int, index: int, size: int) -> int:
    """Bytes the device wrote into the chain returned at a free-running index (2.7.8)."""
    return load_u32(used + 8 + 8 * (index & (size - 1)))


@compiled
def set_used_entry(used: int, index: int, size: int, head: int, length: int) -> None:
    """Return a chain with ``length`` bytes written (2.7.8.2): the device's side."""
    entry = used + 4 + 8 * (index & (size - 1))
    store_i64(entry, head | length << 32)  # one store, though it may lie across two lines


@compiled
def avail_event(used: int, size: int) -> int:
    """The avail index at which the device wants a kick (2.7.10.1, EVENT_IDX)."""
    return load_u16(used + 4 + 8 * size)


@compiled
def set_avail_event(used: int, size: int, index: int) -> None:
    """Ask for a kick once the avail index passes ``index`` (2.7.10.1): the device's side."""
    store_u16(used + 4 + 8 * size, index)


@compiled
def need_event(event: int, new: int, old: int) -> bool:
    """Whether moving an index from ``old`` to ``new`` passes ``event``, all modulo 2^16 (2.7.7.2)."""
    return ((new - event - 1) & 0xFFFF) < ((new - old) & 0xFFFF)
