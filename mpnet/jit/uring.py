"""io_uring(7) over its mapped rings: set up from Python, driven from compiled code.

A ring belongs to the thread that makes it. It queues entries (``queue``), hands them over (``submit``) and takes
results back (``complete``). The three share memory with the kernel: the submission queue's tail and the
completion queue's head are ours, the other two ends the kernel's.
"""

import mmap
import os
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mpnet.jit.compile import compiled
from mpnet.jit.memory import load_acquire_u32, load_i64, load_u32, store_i64, store_release_u32
from mpnet.jit.syscalls import io_uring_enter
from mpnet.jit.uring_setup import (
    SQE_FIXED_FILE,
    WRITE_FIXED,
    enable,
    forget_files,
    register_buffers,
    register_files,
    replace_file,
    setup,
)

_OFFSET_SQ_RING, _OFFSET_CQ_RING, _OFFSET_SQES = 0, 0x8000000, 0x10000000

_SQE_BYTES, _CQE_BYTES = 64, 16
_ENTER_GETEVENTS = 1
_RWF_NOWAIT = 8
"""What would block fails with EAGAIN. With O_NONBLOCK alone it would wait, and others would overtake it."""
_WORD = 0xFFFFFFFF

NOTHING = -1
"""From ``complete``: no operation has ended."""

RING = np.dtype(
    [
        ("fd", "i8"),
        ("sq_tail", "i8"),  # addresses of the ends that are shared
        ("cq_head", "i8"),
        ("cq_tail", "i8"),
        ("sqes", "i8"),
        ("cqes", "i8"),
        ("entries", "i8"),
        ("sq_mask", "i8"),
        ("cq_mask", "i8"),
        ("queued", "i8"),  # our tail, ahead of the shared one until ``submit``
        ("unsubmitted", "i8"),  # operations that are queued and not yet the kernel's
        ("pending", "i8"),  # operations that ``complete`` has not named yet
        ("taken", "i8"),  # our head
        ("result", "i8"),  # of the operation that ``complete`` named last
    ]
)


def make_state() -> Any:
    """A record of ``RING``, shape ``(1,)``, of no ring: its ``fd`` is -1."""
    state = np.zeros(1, RING).view(np.recarray)
    state[0].fd = -1
    return state


class Uring:
    """A ring with one set of fixed files and buffers; a context manager.

    Args:
        entries: operations under way at most; the kernel rounds up to a power of two.
        files: descriptors that operations name by their place here; -1 leaves one free.
        buffers: (address, size) that fixed operations write from, likewise.
        state: what ``make_state`` gave, to be filled in; made where none is given.

    Attributes:
        state: one record of ``RING``, shape ``(1,)``, for the compiled functions.

    Raises:
        OSError: io_uring is not there, or forbidden, as seccomp or kernel.io_uring_disabled may say.
    """

    def __init__(
        self, entries: int, files: list[int], buffers: list[tuple[int, int]], state: Any | None = None
    ) -> None:
        self.state: Any = make_state() if state is None else state
        self._maps: list[mmap.mmap] = []
        self._fd, params = setup(entries)
        try:
            register_buffers(self._fd, buffers)
            register_files(self._fd, files)
            enable(self._fd)
            self._map(params)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the ring back; the kernel ends what is under way."""
        self.state[0].fd = -1
        for mapping in self._maps:
            mapping.close()
        os.close(self._fd)

    def set_file(self, place: int, file: int) -> None:
        """Let operations use another descriptor; -1 lets go of the one there, which the ring has kept open."""
        replace_file(self._fd, place, file)

    def forget_files(self) -> None:
        """Let go of all descriptors."""
        forget_files(self._fd)

    def _map(self, params: tuple[int, ...]) -> None:
        sq_entries, cq_entries = params[0], params[1]
        sq_off, cq_off = params[7:17], params[17:27]
        sq = self._mapped(_OFFSET_SQ_RING, sq_off[6] + 4 * sq_entries)
        cq = self._mapped(_OFFSET_CQ_RING, cq_off[5] + _CQE_BYTES * cq_entries)
        sqes = self._mapped(_OFFSET_SQES, _SQE_BYTES * sq_entries)
        record = self.state[0]
        record.fd, record.entries, record.sqes = self._fd, sq_entries, sqes.ctypes.data
        record.sq_tail, record.sq_mask = sq.ctypes.data + sq_off[1], _word(sq, sq_off[2])
        record.cq_head, record.cq_tail = cq.ctypes.data + cq_off[0], cq.ctypes.data + cq_off[1]
        record.cq_mask, record.cqes = _word(cq, cq_off[2]), cq.ctypes.data + cq_off[5]
        record.queued = record.taken = record.unsubmitted = record.pending = 0
        # Each slot names the entry of its own number, for good.
        sq[sq_off[6] : sq_off[6] + 4 * sq_entries].view(np.uint32)[:] = np.arange(sq_entries)

    def _mapped(self, offset: int, size: int) -> NDArray[np.uint8]:
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        mapping = mmap.mmap(self._fd, size, flags=flags, offset=offset)
        self._maps.append(mapping)
        return np.frombuffer(mapping, np.uint8)


def _word(mapping: NDArray[np.uint8], offset: int) -> int:
    return int(mapping[offset : offset + 4].view(np.uint32)[0])


@compiled
def write_fixed(state: Any, file: int, address: int, size: int, tag: int) -> None:
    """Queue a write(2) from fixed buffer 0 to fixed file ``file``; otherwise as ``queue``."""
    queue(state, WRITE_FIXED, file, address, size, tag)


@compiled
def queue(state: Any, operation: int, file: int, address: int, count: int, tag: int) -> None:
    """Queue an operation on fixed file ``file``; ``complete`` will name ``tag``.

    Fewer than ``entries`` operations must be queued and not yet submitted.

    Args:
        state: the ring's.
        operation: ``WRITE``, ``WRITEV`` or ``WRITE_FIXED``.
        file: place of the descriptor.
        address: of the bytes, or of the iovecs.
        count: bytes, or iovecs.
        tag: any number but a negative one.
    """
    ring = state[0]
    sqe = entry(state, 0)
    store_i64(sqe, operation | SQE_FIXED_FILE << 8 | file << 32)  # opcode, flags, ioprio, fd
    store_i64(sqe + 8, -1)  # no position: the file is a stream
    store_i64(sqe + 16, address)
    store_i64(sqe + 24, count | _RWF_NOWAIT << 32)  # length, rw_flags
    store_i64(sqe + 32, tag)
    store_i64(sqe + 40, 0)  # buf_index, personality, file_index
    ring.queued = (ring.queued + 1) & _WORD
    ring.unsubmitted += 1
    ring.pending += 1


@compiled
def entry(state: Any, behind: int) -> int:
    """Address of a queue entry: the next one, or so many behind it; below zero, one that was queued."""
    ring = state[0]
    address: int = ring.sqes + _SQE_BYTES * (ring.queued + behind & ring.sq_mask)
    return address


@compiled
def submit(state: Any, count: int, wait: int) -> int:
    """Hand ``count`` queued operations to the kernel and wait until ``wait`` have ended; as io_uring_enter(2)."""
    ring = state[0]
    store_release_u32(ring.sq_tail, ring.queued)
    taken = io_uring_enter(ring.fd, count, wait, _ENTER_GETEVENTS)
    ring.unsubmitted -= max(taken, 0)
    return taken


@compiled
def complete(state: Any) -> int:
    """Take one operation that has ended: its tag, with ``result`` in the record; or ``NOTHING``."""
    ring = state[0]
    if ring.taken == load_acquire_u32(ring.cq_tail):
        return NOTHING
    cqe = ring.cqes + _CQE_BYTES * (ring.taken & ring.cq_mask)
    tag: int = load_i64(cqe)
    result = load_u32(cqe + 8)
    ring.result = result - (result >> 31 << 32)  # the sign of 32 bits
    ring.taken = (ring.taken + 1) & _WORD
    ring.pending -= 1
    store_release_u32(ring.cq_head, ring.taken)
    return tag
