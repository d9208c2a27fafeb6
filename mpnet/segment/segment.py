"""One device's segment, created by control and mapped by everyone else."""

import mmap
import os
import re
import weakref
from collections.abc import Callable
from typing import Any, Self

import numpy as np

from mpnet.errors import MpnetError
from mpnet.segment import layout, process, shm
from mpnet.segment.trace import Trace

PREFIX = "mpnet."
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}", re.ASCII)
"""Of a device: a file of another name is nobody's segment."""
_NO_SEGMENT = f"if no mpnet uses it, remove it from {shm.FOLDER}"


class Segment:
    """A mapping of ``/mpnet.<device>``.

    Attributes:
        name: the device's name.
        queue_pairs: how many the segment was made for.
        fd: its descriptor in the process that made it, for workers; -1 elsewhere, and once it is unlinked.
        address: where the mapping begins; compiled code adds offsets of ``layout`` to it.
        header: one record of ``layout.HEADER``.
        rings: ``layout.RING`` records, shape ``(2 * queue_pairs + 1,)``.
        workers: ``layout.WORKER`` records, shape ``(queue_pairs,)``.
        traces: what each worker did last, by slot, and at the end what control did.
    """

    _close: Callable[[], object] = staticmethod(lambda: None)

    def __init__(self, name: str, memory: mmap.mmap, queue_pairs: int) -> None:
        self.name = name
        self.queue_pairs = queue_pairs
        self.fd = -1
        self._memory = memory
        memory.madvise(mmap.MADV_DONTDUMP)  # what waits in the spills is the guest's
        self.address: int = np.frombuffer(memory, np.uint8).ctypes.data
        self.header = self._records(layout.HEADER, 1, 0)[0]
        self.rings = self._records(layout.RING, layout.ring_count(queue_pairs), layout.rings_offset())
        self.workers = self._records(layout.WORKER, queue_pairs, layout.workers_offset(queue_pairs))
        self.traces = [
            Trace(memory, layout.trace_offset(queue_pairs, number)) for number in range(queue_pairs + 1)
        ]

    def _records(self, dtype: np.dtype[Any], count: int, offset: int) -> Any:
        return np.ndarray((count,), dtype, self._memory, offset).view(np.recarray)

    @classmethod
    def create(cls, name: str, queue_pairs: int) -> Self:
        """Create the segment of a device, all zero but for its mark.

        Raises:
            MpnetError: a segment of that name exists, or there is no memory for one.
        """
        size = layout.segment_bytes(queue_pairs)
        try:
            # All of it now: a worker that found none left later would end by SIGBUS.
            fd = shm.create(f"{PREFIX}{name}", size)
        except FileExistsError:
            raise MpnetError(
                f"shared memory /{PREFIX}{name} exists already",
                f"another mpnet serves device {name!r}; stop it or choose another id",
            ) from None
        except OSError as error:
            raise _no_memory(name, size, error) from None
        try:
            segment = cls(name, mmap.mmap(fd, size), queue_pairs)
        except OSError as error:
            os.close(fd)
            unlink(name)
            raise _no_memory(name, size, error) from None
        segment.fd = fd
        segment._close = weakref.finalize(segment, os.close, fd)
        header = segment.header
        header.version, header.queue_pairs, header.name = layout.VERSION, queue_pairs, name.encode()
        header.control_pid, header.control_start_ticks = os.getpid(), process.start_ticks(os.getpid())
        header.boot_id = process.boot_id()
        header.magic = layout.MAGIC
        return segment

    @classmethod
    def attach(cls, name: str) -> Self:
        """Map the segment of a device that is being served by this user.

        Raises:
            MpnetError: there is none, it is not this user's, or not one of this version of mpnet.
        """
        fd = open_segment(name)
        try:
            segment = cls.from_fd(fd, owner=os.geteuid())
        finally:
            os.close(fd)
        if segment.name != name:
            raise MpnetError(f"/{PREFIX}{name} is the shared memory of device {segment.name!r}")
        return segment

    @classmethod
    def from_fd(cls, fd: int, *, owner: int | None) -> Self:
        """Map a segment by its descriptor, which stays the caller's.

        Args:
            fd: of the segment.
            owner: the user whose it must be; None where the descriptor itself came from control.

        Raises:
            MpnetError: it is somebody else's, is no segment, or one of another version of mpnet.
        """
        shm.check(fd, "its descriptor", owner)
        name, queue_pairs = read_mark(fd)
        return cls(name, mmap.mmap(fd, layout.segment_bytes(queue_pairs)), queue_pairs)

    def unlink(self) -> None:
        """Remove the name and close the descriptor; mappings live on until their processes end."""
        unlink(self.name)
        self.fd = -1
        self._close()

    def spill_address(self, pair: int) -> int:
        """Address of the spill of a queue pair: ``layout.SPILL_BYTES`` bytes."""
        return self.address + layout.spill_offset(self.queue_pairs, pair)

    def trace_address(self, number: int) -> int:
        """Address of a trace: ``layout.TRACE_BYTES`` bytes."""
        return self.address + layout.trace_offset(self.queue_pairs, number)

    def log_address(self, ring: int) -> int:
        """Address of the log of a ring: ``layout.LOG_BYTES`` bytes."""
        return self.address + layout.log_offset(self.queue_pairs, ring)


def _no_memory(name: str, size: int, error: OSError) -> MpnetError:
    return MpnetError(
        f"no {size} bytes of shared memory for device {name!r} in {shm.FOLDER}: {error.strerror or error}",
        f"make room there or have it writable, see 'df {shm.FOLDER}'; a container gets more by --shm-size",
    )


def open_segment(name: str, *, owner: int | None = None, read_only: bool = False) -> int:
    """Open the segment of a device, not yet looked into; the descriptor is the caller's.

    Args:
        name: of the device.
        owner: the user whose it must be; this process's unless given.
        read_only: it shall only be read.

    Raises:
        MpnetError: there is none, or it is not that user's.
    """
    try:
        return shm.open_one(f"{PREFIX}{name}", owner=owner, read_only=read_only)
    except shm.MissingError as error:
        raise shm.MissingError(error.problem, "is the device served? see 'mpnet device list'") from None


def read_header(fd: int) -> Any:
    """Copy the header of a segment, which need not be mapped: one ``layout.HEADER`` record.

    Raises:
        MpnetError: it is no segment, or one of another version of mpnet.
    """
    data = os.pread(fd, layout.HEADER.itemsize, 0)
    if len(data) < layout.HEADER.itemsize:
        raise MpnetError(f"{len(data)} bytes of shared memory, expected a device's", "is it being made just now?")
    header = np.frombuffer(data, layout.HEADER, 1).view(np.recarray)[0]
    if (int(header.magic), int(header.version)) != (layout.MAGIC, layout.VERSION):
        raise MpnetError(
            f"shared memory has the mark {int(header.magic):#x} version {int(header.version)}, "
            f"expected {layout.MAGIC:#x} version {layout.VERSION}",
            f"another version of mpnet made it: stop that one, or if it is gone, rm {shm.FOLDER}/{PREFIX}…",
        )
    return header


def read_mark(fd: int) -> tuple[str, int]:
    """Give the device and the queue pairs of a segment that has exactly their size, without mapping it.

    Raises:
        MpnetError: it is no segment, or one of another version of mpnet.
    """
    header = read_header(fd)
    queue_pairs, size = int(header.queue_pairs), os.fstat(fd).st_size
    if not 1 <= queue_pairs <= layout.MAX_QUEUE_PAIRS:
        raise MpnetError(
            f"shared memory of {queue_pairs} queue pairs, expected 1 to {layout.MAX_QUEUE_PAIRS}", _NO_SEGMENT
        )
    if size != layout.segment_bytes(queue_pairs):
        raise MpnetError(
            f"shared memory of {size} bytes, expected {layout.segment_bytes(queue_pairs)} for {queue_pairs} "
            "queue pairs",
            _NO_SEGMENT,
        )
    return header.name.decode(errors="replace"), queue_pairs


def header_of(name: str) -> Any:
    """Copy the header of this user's segment of a device, without mapping it.

    Raises:
        MpnetError: as ``Segment.attach``.
    """
    fd = open_segment(name, read_only=True)
    try:
        read_mark(fd)
        return read_header(fd)
    finally:
        os.close(fd)


def is_served(header: Any) -> bool:
    """Whether the control process that a segment names still lives."""
    return process.lives(int(header.control_pid), int(header.control_start_ticks), bytes(header.boot_id))


def unlink(name: str) -> None:
    """Remove the segment of a device, if there is one."""
    shm.unlink(f"{PREFIX}{name}")


def identity(name: str) -> int | None:
    """Tell one segment of a device from the next of that name; None where there is none."""
    return shm.identity(f"{PREFIX}{name}")


def owner(name: str) -> int | None:
    """The user whose the segment of a device is; None where there is none."""
    return shm.owner(f"{PREFIX}{name}")


def exists(name: str) -> bool:
    """Whether the name of a device's segment is taken, by whomever."""
    return shm.exists(f"{PREFIX}{name}")


def names() -> list[str]:
    """Devices of whatever user that have a segment on this machine, served or left behind."""
    found = (path.name.removeprefix(PREFIX) for path in shm.FOLDER.glob(f"{PREFIX}*"))
    return sorted(name for name in found if _NAME.fullmatch(name))
