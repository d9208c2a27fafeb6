"""Whether a front-end really shares the memory it says it shares.

A file mapped privately (QEMU 7.2: ``share=off``) arrives here like any other. The guest then writes to copies
of its pages, and in the file every ring stays empty for ever: no request fails, and no packet ever moves. Memory
that does not arrive at all, as from a newer QEMU or without a back-end for it, is seen when a ring is to start
that lies in no region: ``Backend.unmapped_rings``.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mpnet.vhost_user.effects import MemoryRegion

REMEDY = (
    "add share=on to the memory back-end and give it to the machine (QEMU: -object memory-backend-memfd,id=mem,"
    "size=…,share=on -machine …,memory-backend=mem; 'mpnet device qemu' prints it), and restart the guest"
)


@dataclass(frozen=True, slots=True)
class _Mapping:
    """A line of ``/proc/PID/maps`` (proc(5)): addresses, the file, and whether writes reach it."""

    start: int
    end: int
    shared: bool
    device: tuple[int, int]
    inode: int


def unshared(regions: Iterable[MemoryRegion], pid: int) -> list[MemoryRegion]:
    """Which regions the process that sent them has mapped privately.

    A region counts where its file is mapped at its user address without MAP_SHARED. Where that cannot be seen,
    as of a process of another user or one that handed its socket on, the region has the benefit of the doubt.

    Args:
        regions: as the front-end described them.
        pid: the front-end's process; 0 when unknown.
    """
    try:
        mappings = list(_mappings(Path(f"/proc/{pid}/maps").read_text()))
    except OSError:
        return []
    return [region for region in regions if any(_hides(mapping, region) for mapping in mappings)]


def _hides(mapping: _Mapping, region: MemoryRegion) -> bool:
    if mapping.shared or not mapping.start <= region.user_address < mapping.end:
        return False
    status = os.fstat(region.fd)
    device = os.major(status.st_dev), os.minor(status.st_dev)
    return (mapping.device, mapping.inode) == (device, status.st_ino)


def _mappings(text: str) -> Iterator[_Mapping]:
    for line in text.splitlines():
        addresses, permissions, _, device, inode, *_ = line.split(maxsplit=5)
        start, end = (int(address, 16) for address in addresses.split("-"))
        major, minor = (int(number, 16) for number in device.split(":"))
        yield _Mapping(start, end, permissions[3] == "s", (major, minor), int(inode))
