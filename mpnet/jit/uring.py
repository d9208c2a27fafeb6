"""io_uring(7) over its mapped rings: set up from Python, driven from compiled code.

A ring belongs to the thread that makes it. That thread queues entries (``write_fixed``), hands them over with
``submit`` and takes results back with ``complete``. The three share memory with the kernel: the submission
queue's tail and the completion queue's head are ours, the other two ends the kernel's.
"""

import ctypes
import mmap
import os
import struct
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mpnet.jit.compile import compiled
from mpnet.jit.memory import load_acquire_u32, load_i64, load_u32, store_i64, store_release_u32
from mpnet.jit.syscalls import io_uring_enter

_SETUP, _REGISTER = 425, 427  # the same numbers on every architecture

_SETUP_CLAMP = 1 << 4
_SETUP_SUBMIT_ALL = 1 << 7
_SETUP_SINGLE_ISSUER = 1 << 12
_SETUP_DEFER_TASKRUN = 1 << 13
_PLAIN = _SETUP_CLAMP
_BEST = _PLAIN | _SETUP_SUBMIT_ALL | _SETUP_SINGLE_ISSUER | _SETUP_DEFER_TASKRUN

_OFFSET_SQ_RING, _OFFSET_CQ_RING, _OFFSET_SQES = 0, 0x8000000, 0x10000000
_PARAMS = struct.Struct("<7I12x10I10I")
"""struct io_uring_params: seven words, three reserved, then sq_off and cq_off of 40 bytes each."""
_REGISTER_BUFFERS, _REGISTER_FILES = 0, 2

_SQE_BYTES, _CQE_BYTES = 64, 16
_OP_WRITE_FIXED = 5
_SQE_FIXED_FILE = 1
_ENTER_GETEVENTS = 1
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
        ("taken", "i8"),  # our head
        ("result", "i8"),  # of the operation that ``complete`` named last
    ]
)


class Uring:
    """A ring with one set of fixed files and buffers; a context manager.

    Args:
        entries: operations under way at most; the kernel rounds up to a power of two.
        files: descriptors that operations name by their place here.
        buffers: (address, size) that fixed operations write from, likewise.

    Attributes:
        state: one record of ``RING``, shape ``(1,)``, for the compiled functions.

    Raises:
        OSError: io_uring is not there, or forbidden (EPERM where seccomp or kernel.io_uring_disabled says so).
    """

    def __init__(self, entries: int, files: list[int], buffers: list[tuple[int, int]]) -> None:
        self.state: Any = np.zeros(1, RING).view(np.recarray)
        self._maps: list[mmap.mmap] = []
        self._fd, params = _setup(entries)
        try:
            self._map(params)
            packed = b"".join(struct.pack("<QQ", *each) for each in buffers)
            self._register(_REGISTER_BUFFERS, packed, len(buffers))
            self._register(_REGISTER_FILES, struct.pack(f"<{len(files)}i", *files), len(files))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the ring back; the kernel ends what is under way."""
        for mapping in self._maps:
            mapping.close()
        os.close(self._fd)

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
        # Each slot names the entry of its own number, for good.
        sq[sq_off[6] : sq_off[6] + 4 * sq_entries].view(np.uint32)[:] = np.arange(sq_entries)

    def _mapped(self, offset: int, size: int) -> NDArray[np.uint8]:
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        mapping = mmap.mmap(self._fd, size, flags=flags, offset=offset)
        self._maps.append(mapping)
        return np.frombuffer(mapping, np.uint8)

    def _register(self, what: int, data: bytes, count: int) -> None:
        if count:
            _syscall(_REGISTER, self._fd, what, ctypes.create_string_buffer(data, len(data)), count)


def _word(mapping: NDArray[np.uint8], offset: int) -> int:
    return int(mapping[offset : offset + 4].view(np.uint32)[0])


def _setup(entries: int) -> tuple[int, tuple[int, ...]]:
    """io_uring_setup(2) with the flags that measured best, or without them on a kernel that lacks them."""
    for flags in (_BEST, _PLAIN):
        params = ctypes.create_string_buffer(_PARAMS.pack(0, 0, flags, *[0] * 24), _PARAMS.size)
        try:
            fd = _syscall(_SETUP, entries, params)
        except OSError:
            if flags == _PLAIN:
                raise
        else:
            return fd, _PARAMS.unpack(params.raw)
    raise AssertionError


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _syscall(number: int, *arguments: Any) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


@compiled
def write_fixed(state: Any, file: int, address: int, size: int, tag: int) -> None:
    """Queue a write(2) from fixed buffer 0 to fixed file ``file``; ``complete`` will name ``tag``.

    Fewer than ``entries`` operations must be queued and not yet submitted.
    """
    ring = state[0]
    sqe = ring.sqes + _SQE_BYTES * (ring.queued & ring.sq_mask)
    store_i64(sqe, _OP_WRITE_FIXED | _SQE_FIXED_FILE << 8 | file << 32)  # opcode, flags, ioprio, fd
    store_i64(sqe + 8, -1)  # no position: the file is a stream
    store_i64(sqe + 16, address)
    store_i64(sqe + 24, size)  # length, rw_flags
    store_i64(sqe + 32, tag)
    store_i64(sqe + 40, 0)  # buf_index, personality, file_index
    ring.queued = (ring.queued + 1) & _WORD


@compiled
def submit(state: Any, count: int, wait: int) -> int:
    """Hand ``count`` queued operations to the kernel and wait until ``wait`` have ended; as io_uring_enter(2)."""
    ring = state[0]
    store_release_u32(ring.sq_tail, ring.queued)
    return io_uring_enter(ring.fd, count, wait, _ENTER_GETEVENTS)


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
    store_release_u32(ring.cq_head, ring.taken)
    return tag
