"""The table of guest memory: what it accepts, and where a range of user addresses lies in it."""

import itertools
from collections.abc import Iterable, Sequence

from mpnet.vhost_user.effects import MemoryRegion
from mpnet.vhost_user.messages import RegionDescription
from mpnet.vhost_user.state import RefusedError

_ADDRESS_END = 1 << 64
_FILE_END = 1 << 63
"""mmap takes a signed 64-bit offset."""


def describe(region: RegionDescription | MemoryRegion) -> str:
    """Name a region for a person."""
    return f"guest memory {region.guest_address:#x}+{region.size:#x} (user address {region.user_address:#x})"


def same_place(one: RegionDescription | MemoryRegion, other: RegionDescription | MemoryRegion) -> bool:
    """Two descriptions name one region: by guest address, user address and size, not by file offset."""
    return (one.guest_address, one.user_address, one.size) == (
        other.guest_address,
        other.user_address,
        other.size,
    )


def check_region(region: RegionDescription) -> None:
    """Refuse a region that is empty or runs past the end of an address space or of a file.

    Raises:
        RefusedError: as said.
    """
    if region.size == 0:
        raise RefusedError(f"{describe(region)} is empty")
    for name, start, end in (
        ("guest address", region.guest_address, _ADDRESS_END),
        ("user address", region.user_address, _ADDRESS_END),
        ("file offset", region.offset, _FILE_END),
    ):
        if start + region.size > end:
            raise RefusedError(f"{describe(region)}: {name} {start:#x} plus its size overflows")


def check_overlaps(regions: Iterable[RegionDescription | MemoryRegion]) -> None:
    """Refuse regions that share a guest address.

    Shared user addresses are let through: one piece of a front-end's memory may show at two guest addresses,
    and either region is then a right answer for a ring's address.

    Raises:
        RefusedError: as said.
    """
    ordered = sorted(regions, key=lambda region: region.guest_address)
    for below, above in itertools.pairwise(ordered):
        if below.guest_address + below.size > above.guest_address:
            raise RefusedError(f"{describe(above)} overlaps {describe(below)}")


def holds(regions: Sequence[MemoryRegion], user_address: int, size: int) -> bool:
    """Tell whether one region holds the whole range.

    Two adjacent regions do not do: they are mapped apart, and a ring part is used through one pointer.
    """
    return any(
        region.user_address <= user_address and user_address + size <= region.user_address + region.size
        for region in regions
    )
