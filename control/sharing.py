"""Whether a front-end really shares the memory it says it shares.

A file mapped privately (QEMU 7.2: ``share=off``) arrives here like any other. The guest then writes to copies
of its pages, and in the file every ring stays empty for ever: no request fails, and no packet ever moves. Memory
that does not arrive at all, as from a newer QEMU or without a back-end for it, is seen when a ring is to start
that lies in no region: ``Backend.unmapped_rings``.
"""

import asyncio
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

from mpnet.control.aside import aside
from mpnet.control.log import Log
from mpnet.control.peer import Peer
from mpnet.vhost_user.effects import MemoryRegion
from mpnet.vhost_user.memory import describe

REMEDY = (
    "add share=on to the memory back-end and give it to the machine (QEMU: -object memory-backend-memfd,id=mem,"
    "size=…,share=on -machine …,memory-backend=mem; 'mpnet device qemu' prints it), and restart the guest"
)


LOOK_SECONDS = 1.0
"""Between two looks at the same front-end's memory, each of which may take a while in a thread."""
_MOST_BYTES = 16 << 20
"""Of a process's map, which has as many lines as it likes; what lies beyond is not looked at."""


@dataclass(frozen=True, slots=True)
class Backing:
    """A region, and the file that is behind it: device and inode.

    It says the same when the region's descriptor has been closed.
    """

    region: MemoryRegion
    device: tuple[int, int]
    inode: int

    @classmethod
    def of(cls, region: MemoryRegion) -> Self:
        """Look at a region's descriptor."""
        status = os.fstat(region.fd)
        return cls(region, (os.major(status.st_dev), os.minor(status.st_dev)), status.st_ino)


def unshared(backings: Sequence[Backing], pid: int) -> list[MemoryRegion]:
    """Which regions the process that sent them has mapped privately.

    A region counts where its file is mapped at its user address without MAP_SHARED. Where that cannot be seen,
    as of a process of another user or one that handed its socket on, the region has the benefit of the doubt.

    It reads the process's whole map, and waits while that process changes it: not to be called in the event loop.

    Args:
        backings: of the regions as the front-end described them.
        pid: the front-end's process; 0 when unknown.
    """
    try:
        with Path(f"/proc/{pid}/maps").open("rb") as maps:
            lines = maps.readlines(_MOST_BYTES)
    except OSError:
        return []
    # Each line once, and a search for each region: a process may have 65530 mappings, and 509 regions of them.
    private = [_mapping(line) for line in lines if b"p " in line[:50]]
    starts = [mapping.start for mapping in private]
    return [
        each.region
        for each in backings
        if (place := bisect_right(starts, each.region.user_address)) and private[place - 1].hides(each)
    ]


class _Mapping(NamedTuple):
    """A line of ``/proc/PID/maps`` (proc(5)), which has them by address."""

    start: int
    end: int
    private: bool
    device: tuple[int, int]
    inode: int

    def hides(self, backing: Backing) -> bool:
        """Whether it is private and has a region's place and file."""
        return (
            self.private
            and self.start <= backing.region.user_address < self.end
            and (self.device, self.inode) == (backing.device, backing.inode)
        )


def _mapping(line: bytes) -> _Mapping:
    addresses, permissions, _, device, inode, *_ = line.split(maxsplit=5)
    start, end = (int(address, 16) for address in addresses.split(b"-"))
    major, minor = (int(number, 16) for number in device.split(b":"))
    return _Mapping(start, end, permissions[3:] == b"p", (major, minor), int(inode))


class SharingWatch:
    """Looks whether a front-end's memory is shared when it has been set: beside the event loop, not too often.

    Args:
        log: carries the device's name.

    Attributes:
        unshared: what is known not to be.
    """

    def __init__(self, log: Log) -> None:
        self.unshared: list[MemoryRegion] = []
        self._log = log
        self._wanted = asyncio.Event()
        self._memory: tuple[list[Backing], int] = ([], 0)

    def look(self, regions: Sequence[MemoryRegion], peer: Peer | None) -> None:
        """Have a look taken soon at what has just been set; without a front-end there is nothing to see."""
        self._memory = [Backing.of(region) for region in regions], peer.pid if peer else 0
        if peer:
            self._wanted.set()
        else:
            self.unshared = []

    async def run(self) -> None:
        """Look whenever that is wanted, for good."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            memory = self._memory
            private = await aside(partial(unshared, *memory), asyncio.Event())
            if memory is self._memory:
                self._note(private or [])
            await asyncio.sleep(LOOK_SECONDS)

    def _note(self, private: list[MemoryRegion]) -> None:
        known, self.unshared = self.unshared, private
        if private and not known:
            # Not refused: a guest may have private memory beside the one its rings and packets are in.
            self._log.error("guest memory is not shared", region=describe(private[0]), remedy=REMEDY)
