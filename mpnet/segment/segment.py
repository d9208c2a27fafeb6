"""One device's segment, created by control and mapped by everyone else."""

import mmap
import os
from pathlib import Path
from typing import Any, Self

import numpy as np
import posix_ipc

from mpnet.errors import MpnetError
from mpnet.segment import layout
from mpnet.segment.trace import Trace

PREFIX = "mpnet."
_SHM_FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux shows POSIX shared memory


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

    def __init__(self, name: str, memory: mmap.mmap, queue_pairs: int) -> None:
        self.name = name
        self.queue_pairs = queue_pairs
        self.fd = -1
        self._memory = memory
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
            shm = posix_ipc.SharedMemory(f"/{PREFIX}{name}", posix_ipc.O_CREX, mode=0o600, size=size)
        except posix_ipc.ExistentialError:
            raise MpnetError(
                f"shared memory /{PREFIX}{name} exists already",
                f"another mpnet serves device {name!r}; stop it or choose another id",
            ) from None
        except (OSError, posix_ipc.PermissionsError) as error:
            raise _no_memory(name, size, error) from None
        try:
            # All of it now: a worker that found none left later would end by SIGBUS.
            os.posix_fallocate(shm.fd, 0, size)
            segment = cls(name, mmap.mmap(shm.fd, size), queue_pairs)
        except OSError as error:
            os.close(shm.fd)
            unlink(name)
            raise _no_memory(name, size, error) from None
        segment.fd = shm.fd
        header = segment.header
        header.version, header.queue_pairs, header.name = layout.VERSION, queue_pairs, name.encode()
        header.control_pid = os.getpid()
        header.magic = layout.MAGIC
        return segment

    @classmethod
    def attach(cls, name: str) -> Self:
        """Map the segment of a device that is being served.

        Raises:
            MpnetError: there is none, or it is not one of this version of mpnet.
        """
        try:
            shm = posix_ipc.SharedMemory(f"/{PREFIX}{name}")
        except posix_ipc.ExistentialError:
            raise MpnetError(
                f"there is no shared memory /{PREFIX}{name}", "is the device served? see 'mpnet device list'"
            ) from None
        except posix_ipc.PermissionsError:
            raise MpnetError(
                f"no permission to map the shared memory /{PREFIX}{name}",
                "run the command as the user who runs 'mpnet run'",
            ) from None
        try:
            memory = mmap.mmap(shm.fd, shm.size)
        finally:
            os.close(shm.fd)
        header = np.frombuffer(memory, layout.HEADER, 1)[0]
        if (int(header["magic"]), int(header["version"])) != (layout.MAGIC, layout.VERSION):
            raise MpnetError(
                f"/{PREFIX}{name} has the mark {int(header['magic']):#x} version {int(header['version'])}, "
                f"expected {layout.MAGIC:#x} version {layout.VERSION}",
                "it was made by another version of mpnet: restart that one",
            )
        return cls(name, memory, int(header["queue_pairs"]))

    def unlink(self) -> None:
        """Remove the name; mappings live on until their processes end."""
        unlink(self.name)
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def spill_address(self, pair: int) -> int:
        """Address of the spill of a queue pair: ``layout.SPILL_BYTES`` bytes."""
        return self.address + layout.spill_offset(self.queue_pairs, pair)

    def trace_address(self, number: int) -> int:
        """Address of a trace: ``layout.TRACE_BYTES`` bytes."""
        return self.address + layout.trace_offset(self.queue_pairs, number)

    def log_address(self, ring: int) -> int:
        """Address of the log of a ring: ``layout.LOG_BYTES`` bytes."""
        return self.address + layout.log_offset(self.queue_pairs, ring)


def _no_memory(name: str, size: int, error: Exception) -> MpnetError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return MpnetError(
        f"no {size} bytes of shared memory for device {name!r} in {_SHM_FOLDER}: {reason}",
        f"make room there or have it writable, see 'df {_SHM_FOLDER}'; a container gets more by --shm-size",
    )


def unlink(name: str) -> None:
    """Remove the segment of a device, if there is one."""
    try:
        posix_ipc.unlink_shared_memory(f"/{PREFIX}{name}")
    except posix_ipc.ExistentialError:
        return


def identity(name: str) -> int | None:
    """Tell one segment of a device from the next of that name; None where there is none."""
    try:
        return (_SHM_FOLDER / f"{PREFIX}{name}").stat().st_ino
    except FileNotFoundError:
        return None


def names() -> list[str]:
    """Devices that have a segment on this machine, served or left behind."""
    return sorted(path.name.removeprefix(PREFIX) for path in _SHM_FOLDER.glob(f"{PREFIX}*"))
