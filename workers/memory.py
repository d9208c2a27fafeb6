"""Guest memory in this process: mapped once, replaced piece by piece, and survived when it shrinks."""

import ctypes
import mmap
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mpnet.errors import GuestMemoryError
from mpnet.jit.system_calls import Call, equals
from mpnet.rpc.worker import Region
from mpnet.workers.signals import handle, handle_by_default
from mpnet.workers.state import MAX_REGIONS, Context

_ADDRESS_LIMIT = 1 << 62
"""Keeps every sum of an address and a size a positive signed 64-bit integer."""
_AT_EMPTY_PATH = 0x1000
_FSTAT = "the C library's fstat() makes one of newfstatat and fstat, by its version"
_SIGINFO_ADDRESS_OFFSET = 16
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
SYSTEM_CALLS = (
    Call("madvise"),
    Call("newfstatat", equals(3, _AT_EMPTY_PATH), seldom=_FSTAT),
    Call("fstat", seldom=_FSTAT),
)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]


@dataclass
class _Mapping:
    region: Region
    key: "_Key"
    memory: mmap.mmap
    map_address: int
    page_size: int
    lost_from: int = -1
    """Address of the first page that its file took away; -1 while all are there."""

    @property
    def host_address(self) -> int:
        """Where the region's first byte is."""
        return self.map_address + self.region.offset % self.page_size

    def close(self) -> None:
        self.memory.close()


class GuestMemory:
    """The regions of one guest's memory, in ``ctx.regions`` for compiled code."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._mappings: list[_Mapping] = []
        self._coming: list[_Mapping] = []
        self._handler = _install_sigbus_handler(self)

    def gather(self, regions: Sequence[Region], fds: Sequence[int], *, first: bool = True) -> None:
        """Map a part of the next table, or all of it; a region that is in the last one stays mapped where it is.

        The caller keeps ``fds`` and may close them.

        Raises:
            GuestMemoryError: a region cannot be mapped, or there are too many; the last table stays.
        """
        if first:
            self._drop()
        if len(regions) != len(fds) or len(self._coming) + len(regions) > MAX_REGIONS:
            self._drop()
            raise GuestMemoryError(
                f"{len(regions)} memory regions with {len(fds)} fds, expected a fd each and at most {MAX_REGIONS}"
            )
        # What was lost does not come back by itself, even if the file grows again: such a region is mapped anew.
        known = {mapping.key: mapping for mapping in self._mappings if mapping.lost_from < 0}
        try:
            for region, fd in zip(regions, fds, strict=True):
                self._coming.append(known.get(_key(region, fd)) or _map(region, fd))
        except GuestMemoryError:
            self._drop()
            raise

    def take(self) -> None:
        """Put what was gathered in place of the last table."""
        kept = {id(mapping) for mapping in self._coming}
        gone = [mapping for mapping in self._mappings if id(mapping) not in kept]
        self._mappings, self._coming = self._coming, []
        self._fill_table()
        for mapping in gone:
            mapping.close()

    def _drop(self) -> None:
        """Forget what was gathered."""
        kept = {id(mapping) for mapping in self._mappings}
        for mapping in self._coming:
            if id(mapping) not in kept:
                mapping.close()
        self._coming = []

    @property
    def regions(self) -> list[Region]:
        """The table that is in place."""
        return [mapping.region for mapping in self._mappings]

    def _fill_table(self) -> None:
        worker = self._ctx.worker[0]
        for i, mapping in enumerate(self._mappings):
            entry = self._ctx.regions[i]
            entry.guest_address = mapping.region.guest_address
            entry.length = mapping.region.size
            entry.host_address = mapping.host_address
        worker.regions = len(self._mappings)
        worker.last_region = 0
        if not self._mappings:
            self._ctx.regions[0].length = 0
            self._ctx.regions[0].host_address = 0

    def from_user(self, address: int, size: int) -> int:
        """Where ``size`` bytes at a front-end's user address are in this process.

        Raises:
            GuestMemoryError: no region holds the whole range.
        """
        for mapping in self._mappings:
            offset = address - mapping.region.user_address
            if offset >= 0 and offset + size <= mapping.region.size:
                found = mapping.host_address + offset
                if 0 <= mapping.lost_from < found + size:
                    raise GuestMemoryError(
                        f"the range {address:#x}..{address + size:#x} was lost: its file became shorter",
                        "share guest memory anew",
                    )
                return found
        raise GuestMemoryError(
            f"the range {address:#x}..{address + size:#x} is in none of {len(self._mappings)} memory regions",
            "is the guest's memory shared with the device (share=on)?",
        )

    @property
    def unminded_loss(self) -> bool:
        """Whether memory was lost that no ring has been broken for yet."""
        worker = self._ctx.worker[0]
        return bool(worker.memory_lost != worker.memory_lost_seen)

    def mind_losses(self) -> None:
        """Note that every ring that must be broken for what was lost is."""
        worker = self._ctx.worker[0]
        worker.memory_lost_seen = worker.memory_lost

    def close(self) -> None:
        """Unmap everything."""
        self._drop()
        self.take()

    def lost(self, address: int) -> bool:
        """Replace the page at ``address``, and all behind it in its region, by private zeros.

        The file behind the mapping became shorter. Whatever the ring that touched it does now has no effect; the
        ring is broken when its burst ends, and rings that live elsewhere go on.

        Returns:
            Whether the address is guest memory at all.
        """
        for mapping in self._mappings:
            end = mapping.map_address + len(mapping.memory)
            if mapping.map_address <= address < end:
                page = address - (address - mapping.map_address) % mapping.page_size
                flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE | _MAP_FIXED
                got = _libc.mmap(page, end - page, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
                mapping.lost_from = page if mapping.lost_from < 0 else min(page, mapping.lost_from)
                self._ctx.worker[0].memory_lost += 1
                return bool(got == page)
        return False


_Key = tuple[int, int, int, int, int, int]


def _key(region: Region, fd: int) -> _Key:
    """What two regions have in common that are one: their place, and the file."""
    status = os.fstat(fd)
    place = region.guest_address, region.size, region.user_address, region.offset
    return *place, status.st_dev, status.st_ino


def _map(region: Region, fd: int) -> _Mapping:
    status = os.fstat(fd)
    # Of a file on hugetlbfs this is its page size, which the mapping must be aligned to.
    page_size = max(status.st_blksize, mmap.PAGESIZE)
    skipped = region.offset % page_size
    length = -(-(skipped + region.size) // page_size) * page_size
    if region.guest_address + region.size >= _ADDRESS_LIMIT or region.size <= 0:
        raise GuestMemoryError(f"memory region of {region.size} bytes at guest address {region.guest_address:#x}")
    if region.offset + region.size > status.st_size:
        raise GuestMemoryError(
            f"memory region of {region.size} bytes at offset {region.offset} of a file of {status.st_size} bytes",
            "the front-end must size the file before it shares it",
        )
    try:
        memory = mmap.mmap(
            fd, min(length, status.st_size - region.offset + skipped), offset=region.offset - skipped
        )
    except (OSError, ValueError, OverflowError) as error:
        raise GuestMemoryError(
            f"cannot map memory region of {region.size} bytes at offset {region.offset}: {error}",
            "guest memory must be a shared memfd, /dev/shm or hugetlbfs file (share=on)",
        ) from error
    # A guest's memory has no place in a core file of this process.
    memory.madvise(mmap.MADV_DONTDUMP)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return _Mapping(region, _key(region, fd), memory, address, page_size)


def _install_sigbus_handler(memory: GuestMemory) -> Any:
    """Handle SIGBUS in guest memory; elsewhere it ends the process as ever.

    It comes where this very thread touches the lost page.
    """

    def on_sigbus(signal_number: int, information: int, _context: int) -> None:
        address = ctypes.c_uint64.from_address(information + _SIGINFO_ADDRESS_OFFSET).value
        if not memory.lost(address):
            handle_by_default(signal_number)

    return handle(signal.SIGBUS, on_sigbus, nested=True)
