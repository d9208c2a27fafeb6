"""Captures: frames that workers copy into POSIX shared memory while somebody asks for them.

``/mpnet-capture.<device>`` is made by control, filled by workers and emptied by one reader. Behind a page for its
header it has a *lane* for each queue pair, a ring of records with one writer, the worker that serves the pair,
and one reader; lanes that are not captured are never touched and cost nothing. A lane that is full takes no
more: what does not fit is counted, and no guest waits for a reader.

A record holds a frame with its virtio-net header in front. Records are whole: one that does not fit in front of
the lane's end begins at its start again, and a *filler* says so. ``HEAD`` and ``TAIL`` count bytes, without end.
"""

import mmap
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Any, Self

import numpy as np

from mpnet.errors import MpnetError
from mpnet.segment import shm
from mpnet.segment.layout import CACHE_LINE, MAX_QUEUE_PAIRS, PAGE

PREFIX = "mpnet-capture."
MAGIC = 0x706163706E6D
"""What the header begins with: "mnpcap" read as a little-endian integer; it changes with the layout."""
MAX_SNAPLEN = 256 * 1024
"""More than any frame has."""
MIN_LANE_BYTES = 2 * MAX_SNAPLEN
HEAD = 0
"""Offsets in a lane: bytes ever written; then frames that were kept, and that were not for want of room."""
KEPT = 8
DROPPED = 16
TAIL = CACHE_LINE
"""Bytes the reader has done with."""
DATA = 2 * CACHE_LINE
RECORD_BYTES = 48
"""Bytes of a record in front of the frame: six 64-bit integers."""
FILLER = -1
"""In place of a record's ring: nothing is here up to the lane's end."""

_RECORD = Struct("=qqqqqq")
_HEADER = np.dtype([(name, "i8") for name in ("magic", "queue_pairs", "lane_bytes", "snaplen")])


def lane_offset(pair: int, lane_bytes: int) -> int:
    """Where the lane of a queue pair begins; ``lane_bytes`` are those of its data."""
    return PAGE + pair * (DATA + lane_bytes)


@dataclass(frozen=True, slots=True)
class Frame:
    """A captured frame.

    Attributes:
        ring: whose it is: 2q and 2q + 1 are queue pair q's rx and tx.
        time_ns: when its burst began, CLOCK_REALTIME.
        length: bytes of the frame on the ring, without virtio-net header.
        header: the virtio-net header.
        data: the frame, up to the capture's length.
    """

    ring: int
    time_ns: int
    length: int
    header: bytes
    data: bytes


class Lane:
    """One queue pair's frames, for the reader.

    Args:
        memory: the mapping.
        pair: the queue pair.
        lane_bytes: of its data.
    """

    def __init__(self, memory: mmap.mmap, pair: int, lane_bytes: int) -> None:
        offset = lane_offset(pair, lane_bytes)
        self._memory = memory
        self._rings = (2 * pair, 2 * pair + 1)
        self._data = offset + DATA
        self._bytes = lane_bytes
        self._head: Any = np.ndarray((3,), np.int64, memory, offset)
        self._tail: Any = np.ndarray((1,), np.int64, memory, offset + TAIL)
        # Its own: a worker can write to all that is shared, and may be anybody's by now.
        self._taken = int(self._tail[0])

    @property
    def kept(self) -> int:
        """Frames that found room."""
        return int(self._head[KEPT // 8])

    @property
    def dropped(self) -> int:
        """Frames that found none."""
        return int(self._head[DROPPED // 8])

    def take(self) -> Iterator[Frame]:
        """Take the frames that are there, oldest first; the room of each is free once the next is asked for.

        What no worker of ours writes ends it: the rest of the lane is passed over.
        """
        head = int(self._head[0])
        if not self._taken <= head <= self._taken + self._bytes:
            self._done(head)
        while self._taken < head:
            tail = self._taken
            at = self._data + tail % self._bytes
            length, ring, *rest = _RECORD.unpack_from(self._memory, at) if self._fits(at) else (0, FILLER, 0)
            if ring == FILLER:
                self._done(min(head, tail + self._bytes - tail % self._bytes))
            elif self._is_sound(length, ring, stored=rest[2], left=head - tail):
                yield self._frame(ring, at, rest)
                self._done(tail + length)
            else:
                self._done(head)

    def _done(self, tail: int) -> None:
        self._taken = tail
        self._tail[0] = tail

    def _is_sound(self, length: int, ring: int, *, stored: int, left: int) -> bool:
        return ring in self._rings and RECORD_BYTES <= length <= left and 0 <= stored <= length - RECORD_BYTES

    def _fits(self, at: int) -> bool:
        return at + RECORD_BYTES <= self._data + self._bytes

    def _frame(self, ring: int, at: int, rest: list[int]) -> Frame:
        time_ns, length, stored, header_bytes = rest
        begin = at + RECORD_BYTES
        data = self._memory[begin : begin + stored]
        return Frame(ring, time_ns, length, data[:header_bytes], data[header_bytes:])


class Capture:
    """A mapping of ``/mpnet-capture.<device>``.

    Attributes:
        lanes: by queue pair.
        lane_bytes: of each lane's data.
        snaplen: bytes of a frame that are kept at most.
        size: bytes of the mapping.
    """

    def __init__(self, device: str, memory: mmap.mmap) -> None:
        self._device = device
        self._memory = memory
        memory.madvise(mmap.MADV_DONTDUMP)  # frames are the guest's
        header = np.ndarray((1,), _HEADER, memory)[0]
        self.lane_bytes, self.snaplen = int(header["lane_bytes"]), int(header["snaplen"])
        self.lanes = [Lane(memory, pair, self.lane_bytes) for pair in range(int(header["queue_pairs"]))]

    @classmethod
    def create(cls, device: str, queue_pairs: int, lane_bytes: int, snaplen: int) -> tuple[Self, int]:
        """Make the capture of a device, in place of one that a crash left; gives it and an fd, the caller's.

        Raises:
            MpnetError: a length is out of range, or there is no memory for it.
        """
        if not 1 <= snaplen <= MAX_SNAPLEN:
            raise MpnetError(f"{snaplen} bytes a frame were asked for, expected 1 to {MAX_SNAPLEN}")
        if lane_bytes < MIN_LANE_BYTES or lane_bytes % 8:
            raise MpnetError(
                f"{lane_bytes} bytes of buffer were asked for, expected {MIN_LANE_BYTES} or more, a multiple of 8"
            )
        unlink(device)
        size = lane_offset(queue_pairs, lane_bytes)
        try:
            fd = shm.create(f"{PREFIX}{device}", size, reserve=PAGE)
        except OSError as error:
            raise MpnetError(
                f"no {size} bytes of shared memory: {error.strerror or error}",
                "choose a smaller --buffer, or make room on /dev/shm",
            ) from None
        try:
            memory = mmap.mmap(fd, size)
        except (OSError, ValueError, OverflowError) as error:
            os.close(fd)
            unlink(device)
            raise MpnetError(f"{size} bytes cannot be mapped: {error}", "choose a smaller --buffer") from None
        np.ndarray((1,), _HEADER, memory)[0] = (MAGIC, queue_pairs, lane_bytes, snaplen)
        return cls(device, memory), fd

    def reserve(self, fd: int, pairs: Iterable[int]) -> None:
        """Take memory for the lanes of ``pairs`` now: a worker that found none later would end by SIGBUS.

        Raises:
            MpnetError: there is not so much.
        """
        for pair in pairs:
            try:
                os.posix_fallocate(fd, lane_offset(pair, self.lane_bytes), DATA + self.lane_bytes)
            except OSError as error:
                raise MpnetError(
                    f"no {self.lane_bytes} bytes of shared memory for each queue pair: {error.strerror}",
                    "choose a smaller --buffer, capture one --queue, or make room on /dev/shm",
                ) from None

    @classmethod
    def attach(cls, device: str, owner: int | None = None) -> Self:
        """Map the capture of a device.

        Args:
            device: whose.
            owner: the user who runs control; this process's unless given.

        Raises:
            MpnetError: there is none, it is somebody else's or another version's.
        """
        try:
            fd = shm.open_one(f"{PREFIX}{device}", owner=owner)
        except shm.MissingError:
            raise MpnetError(f"device {device!r} is not being captured") from None
        try:
            size = _size(fd, device)
            return cls(device, mmap.mmap(fd, size))
        finally:
            os.close(fd)


def _size(fd: int, device: str) -> int:
    """The bytes of a capture, which its header and its file agree on."""
    data = os.pread(fd, _HEADER.itemsize, 0)
    header = np.frombuffer(data, _HEADER, 1)[0] if len(data) == _HEADER.itemsize else np.zeros(1, _HEADER)[0]
    magic, queue_pairs, lane_bytes, _ = (int(value) for value in header)
    size = os.fstat(fd).st_size
    if magic != MAGIC or not 1 <= queue_pairs <= MAX_QUEUE_PAIRS or size != lane_offset(queue_pairs, lane_bytes):
        raise MpnetError(
            f"/{PREFIX}{device} was made by another version of mpnet", "use the command of that version"
        )
    return size


def unlink(device: str) -> None:
    """Remove the capture of a device, if there is one; mappings live on until their processes end."""
    shm.unlink(f"{PREFIX}{device}")
