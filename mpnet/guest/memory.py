"""The embedded driver's guest memory: one shared file, mapped here and shared with the back-end."""

import fcntl
import itertools
import mmap
import os
from collections.abc import Iterator, Sequence
from typing import Literal, Self

import numpy as np
import posix_ipc

from mpnet.errors import GuestMemoryError
from mpnet.vhost_user.effects import MemoryRegion

Backing = Literal["memfd", "shm"]
BASE = 0x1_0000_0000
"""Default guest address of the first region: no host mapping lies here, so a mix-up of the two shows."""
SEAM = 4096
"""Bytes on each side of a border of two regions that ``allocate`` leaves to whoever wants to cross it."""
_PAGE = 4096
_serial = itertools.count()


class GuestMemory:
    """Regions of guest-physical memory in one file, each mapped on its own.

    By default the regions follow each other without a gap in the guest, while their mappings lie anywhere: a
    buffer may cross from one to the next, and only a back-end that translates piece by piece gets it right.

    Args:
        sizes: bytes of each region, multiples of 4096.
        backing: ``memfd`` is an anonymous file; ``shm`` a POSIX shared memory object, unlinked at once.
        base: guest address of the first region.
        gap: bytes of guest address space between regions that nobody backs.

    Attributes:
        regions: what the back-end is told; ``user_address`` is the region's address in this process.
        fd: the file, open until ``close``.

    Raises:
        GuestMemoryError: a size, the base or the gap is not a multiple of the page size, or /dev/shm is full.
    """

    def __init__(self, sizes: Sequence[int], backing: Backing = "memfd", base: int = BASE, gap: int = 0) -> None:
        if not sizes or any(number % _PAGE for number in (*sizes, base, gap)) or min(sizes) <= 2 * SEAM:
            raise GuestMemoryError(
                f"guest memory of {list(sizes)} bytes at {base:#x} with gaps of {gap}",
                f"every number must be a multiple of {_PAGE}, and a region above {2 * SEAM} bytes",
            )
        self.fd = _shared_file(backing, sum(sizes))
        self._maps = [
            mmap.mmap(self.fd, size, offset=end - size)
            for size, end in zip(sizes, itertools.accumulate(sizes), strict=True)
        ]
        self.regions = tuple(self._describe(base, gap))
        self._next = [region.guest_address + SEAM for region in self.regions]

    def _describe(self, base: int, gap: int) -> Iterator[MemoryRegion]:
        offset = 0
        for number, mapping in enumerate(self._maps):
            size = len(mapping)
            address = np.frombuffer(mapping, np.uint8).ctypes.data
            yield MemoryRegion(base + offset + number * gap, size, int(address), offset, self.fd)
            offset += size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap and close; whoever still uses an address of this memory must have stopped before."""
        for mapping in self._maps:
            mapping.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def allocate(self, size: int, align: int = 64) -> int:
        """Set aside ``size`` bytes that lie in one region; return their guest address.

        There is no way to give them back: a driver's rings and buffers live as long as its memory.

        Raises:
            GuestMemoryError: no region has that much left.
        """
        for number, region in enumerate(self.regions):
            start = -(-self._next[number] // align) * align
            if start + size <= region.guest_address + region.size - SEAM:
                self._next[number] = start + size
                return start
        raise GuestMemoryError(
            f"no room for {size} bytes in the embedded driver's memory of {[r.size for r in self.regions]} bytes",
            "give it more memory",
        )

    def host_address(self, guest_address: int, size: int) -> int:
        """Translate a range that lies in one region to this process's address.

        Raises:
            GuestMemoryError: it does not lie in one region.
        """
        for region in self.regions:
            offset = guest_address - region.guest_address
            if offset >= 0 and offset + size <= region.size:
                return region.user_address + offset
        raise GuestMemoryError(f"no region holds the {size} bytes at guest address {guest_address:#x}")

    def write(self, guest_address: int, data: bytes) -> None:
        """Write ``data``, which may cross regions.

        Raises:
            GuestMemoryError: a part lies in no region.
        """
        done = 0
        for mapping, start, size in self._pieces(guest_address, len(data)):
            mapping[start : start + size] = data[done : done + size]
            done += size

    def read(self, guest_address: int, size: int) -> bytes:
        """Read ``size`` bytes, which may cross regions.

        Raises:
            GuestMemoryError: a part lies in no region.
        """
        pieces = self._pieces(guest_address, size)
        return b"".join(mapping[start : start + length] for mapping, start, length in pieces)

    def _pieces(self, guest_address: int, size: int) -> Iterator[tuple[mmap.mmap, int, int]]:
        """Split a guest range into (mapping, offset in it, bytes)."""
        end = guest_address + size
        while guest_address < end:
            number = self._holder(guest_address)
            start = guest_address - self.regions[number].guest_address
            length = min(end - guest_address, self.regions[number].size - start)
            yield self._maps[number], start, length
            guest_address += length

    def _holder(self, guest_address: int) -> int:
        for number, region in enumerate(self.regions):
            if 0 <= guest_address - region.guest_address < region.size:
                return number
        raise GuestMemoryError(f"no region holds guest address {guest_address:#x}")


def _shared_file(backing: Backing, size: int) -> int:
    """A nameless file of ``size`` zero bytes; a memfd is sealed, so that it cannot shrink under the back-end."""
    if backing == "shm":
        name = f"/mpnet-guest.{os.getpid()}.{next(_serial)}"
        shm = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600, size=size)
        shm.unlink()
        try:
            # All of it now: a page for which there is no memory when it is touched ends the driver by SIGBUS.
            os.posix_fallocate(shm.fd, 0, size)
        except OSError as error:
            os.close(shm.fd)
            raise GuestMemoryError(
                f"no {size} bytes of shared memory for the embedded driver: {error.strerror}",
                "make room on /dev/shm, give it less memory, or use a memfd",
            ) from None
        return int(shm.fd)
    fd = os.memfd_create("mpnet-guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return fd
