"""What a ring must be before it is served: its size, its alignment, its place in guest memory."""

from collections.abc import Sequence
from typing import NamedTuple

from mpnet.vhost_user.effects import MemoryRegion
from mpnet.vhost_user.memory import holds
from mpnet.vhost_user.ring import Ring
from mpnet.vhost_user.state import RefusedError, State, UnmappedRingError

MAX_RING_SIZE = 32768


class Part(NamedTuple):
    """One of a ring's three areas: its address in the front-end, bytes long, and the alignment it needs."""

    name: str
    address: int
    size: int
    alignment: int


def parts(ring: Ring, *, packed: bool) -> tuple[Part, Part, Part]:
    """Return the three areas of ``ring`` (VIRTIO 2.7 split, 2.8 packed).

    Split: the available ring is flags, idx, one u16 an entry and used_event; the used ring the same with 8
    bytes an entry. The event indexes are counted in whether negotiated or not: drivers lay them out always.
    """
    size = ring.size
    if packed:
        return (
            Part("descriptor ring", ring.descriptor_address, 16 * size, 16),
            Part("driver event suppression", ring.avail_address, 4, 4),
            Part("device event suppression", ring.used_address, 4, 4),
        )
    return (
        Part("descriptor table", ring.descriptor_address, 16 * size, 16),
        Part("available ring", ring.avail_address, 6 + 2 * size, 2),
        Part("used ring", ring.used_address, 6 + 8 * size, 4),
    )


def check_size(ring: Ring, *, packed: bool) -> None:
    """Refuse a ring size VIRTIO 2.7 (split) or 2.8.10.1 (packed) does not allow.

    Raises:
        RefusedError: as said.
    """
    given = f"ring {ring.index}: size {ring.size}"
    if packed:
        if not 1 <= ring.size <= MAX_RING_SIZE:
            raise RefusedError(f"{given} is not in 1 to {MAX_RING_SIZE} (VIRTIO 2.8.10.1)")
    elif not 2 <= ring.size <= MAX_RING_SIZE:
        raise RefusedError(f"{given} is not in 2 to {MAX_RING_SIZE} (VIRTIO 2.7)")
    elif ring.size & (ring.size - 1):
        raise RefusedError(f"{given} is not a power of two (VIRTIO 2.7)")


def check_alignment(ring: Ring, *, packed: bool) -> None:
    """Refuse ring addresses that are not aligned as VIRTIO 2.7 and 2.8 require.

    Raises:
        RefusedError: as said.
    """
    for part in parts(ring, packed=packed):
        if part.address % part.alignment:
            section = "2.8" if packed else "2.7"
            raise RefusedError(
                f"ring {ring.index}: the {part.name} at {part.address:#x} is not aligned"
                f" to {part.alignment} bytes (VIRTIO {section})"
            )


def check_base(ring: Ring, *, packed: bool) -> None:
    """Refuse a base that is no index of this ring (vhost-user.rst, "Vring state description").

    Raises:
        RefusedError: as said.
    """
    if packed:
        if ring.base & 0x7FFF >= ring.size:
            raise RefusedError(f"ring {ring.index}: base {ring.base:#x} is past its {ring.size} descriptors")
    elif ring.base > 0xFFFF:
        raise RefusedError(f"ring {ring.index}: base {ring.base} does not fit 16 bits")


def unmapped_part(ring: Ring, regions: Sequence[MemoryRegion], *, packed: bool) -> Part | None:
    """Return an area of ``ring`` that lies in no region, None where all three are mapped."""
    for part in parts(ring, packed=packed):
        if not holds(regions, part.address, part.size):
            return part
    return None


def check_index(ring: Ring, state: State) -> None:
    """Refuse a ring that is none under the features negotiated (VIRTIO 5.1.2): the control queue is the last.

    Rings are numbered by what was negotiated, and workers have the control queue in a place of its own: a ring
    behind it would share a number with another.

    Raises:
        RefusedError: as said.
    """
    last = 2 * state.offer.queue_pairs - 1 if state.control_ring is None else state.control_ring
    if ring.index > last:
        raise RefusedError(
            f"ring {ring.index} is none with the features negotiated, which make ring {last} the last one"
        )


def check_kick(ring: Ring, state: State) -> None:
    """Refuse a control queue without a kick descriptor: nobody polls it.

    Raises:
        RefusedError: as said.
    """
    if ring.index == state.control_ring and ring.kick_fd is None:
        raise RefusedError(f"ring {ring.index}: the control queue is not polled, it needs a kick descriptor")


def check_all(ring: Ring, state: State) -> None:
    """Refuse to start a ring that cannot be served.

    Raises:
        RefusedError: its number, size, alignment, base or kick is wrong.
        UnmappedRingError: an area of it lies in no region.
    """
    packed, regions = state.packed, state.regions
    check_index(ring, state)
    check_kick(ring, state)
    check_size(ring, packed=packed)
    check_alignment(ring, packed=packed)
    check_base(ring, packed=packed)
    part = unmapped_part(ring, regions, packed=packed)
    if part:
        raise UnmappedRingError(
            f"ring {ring.index}: the {part.name} at {part.address:#x}, {part.size} bytes,"
            f" lies in none of the {len(regions)} memory regions; is guest memory shared (QEMU: share=on)?"
        )
