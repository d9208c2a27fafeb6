"""The bare system calls in tight compiled loops: what a device on a TAP could reach if rings cost nothing."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpnet.jit.compile import compiled
from mpnet.jit.memory import copy
from mpnet.jit.syscalls import clock_ns, read, write
from mpnet.jit.uring import complete, submit, write_fixed

_CLOCK_MONOTONIC = 1
_CLOCK_EVERY = 64
BATCH = 64
"""Writes handed to the kernel at a time."""

STATE = np.dtype(
    [
        ("fd", "i8"),
        ("data", "i8"),  # address of frames, or of room for some
        ("size", "i8"),  # of a frame, or of the room for one
        ("count", "i8"),  # frames there are, or are room for
        ("next", "i8"),
        ("frames", "i8"),
        ("failed", "i8"),
        ("nanoseconds", "i8"),  # of the last run
        ("timespec", "i8", (2,)),
        ("timespec_at", "i8"),
    ]
)


def make_state(fd: int, data: NDArray[np.uint8], size: int) -> Any:
    """A record for the loops below, shape ``(1,)``; ``data`` must outlive it."""
    state = np.zeros(1, STATE).view(np.recarray)
    record, start = state[0], state.ctypes.data
    fields: Any = STATE.fields
    record.fd, record.data, record.size, record.count = fd, data.ctypes.data, size, len(data) // size
    record.timespec_at = start + fields["timespec"][1]
    return state


@compiled
def copy_each(state: Any, entries: int, nanoseconds: int) -> None:
    """Copy each of the first ``entries`` frames behind them, over and over."""
    work = state[0]
    started = clock_ns(_CLOCK_MONOTONIC, work.timespec_at)
    now = started
    while now - started < nanoseconds:
        for number in range(entries):
            source = work.data + number * work.size
            copy(source + entries * work.size, source, work.size)
        work.frames += entries
        now = clock_ns(_CLOCK_MONOTONIC, work.timespec_at)
    work.nanoseconds = now - started


@compiled
def write_each(state: Any, nanoseconds: int) -> None:
    """A write(2) for each frame."""
    work = state[0]
    started = clock_ns(_CLOCK_MONOTONIC, work.timespec_at)
    now = started
    while now - started < nanoseconds:
        for _ in range(_CLOCK_EVERY):
            if write(work.fd, work.data + work.next * work.size, work.size) == work.size:
                work.frames += 1
            else:
                work.failed += 1
            work.next = work.next + 1 if work.next + 1 < work.count else 0
        now = clock_ns(_CLOCK_MONOTONIC, work.timespec_at)
    work.nanoseconds = now - started


@compiled
def write_batches(state: Any, ring: Any, nanoseconds: int) -> None:
    """Writes through io_uring, ``BATCH`` at a time, from fixed buffer 0 to fixed file 0."""
    work = state[0]
    started = clock_ns(_CLOCK_MONOTONIC, work.timespec_at)
    now = started
    while now - started < nanoseconds:
        for _ in range(BATCH):
            write_fixed(ring, 0, work.data + work.next * work.size, work.size, 0)
            work.next = work.next + 1 if work.next + 1 < work.count else 0
        submit(ring, BATCH, BATCH)
        while complete(ring) >= 0:
            if ring[0].result == work.size:
                work.frames += 1
            else:
                work.failed += 1
        now = clock_ns(_CLOCK_MONOTONIC, work.timespec_at)
    work.nanoseconds = now - started


@compiled
def _read_next(state: Any) -> bool:
    """Read a frame, if there is one, to where the one that is longest ago was."""
    work = state[0]
    if read(work.fd, work.data + work.next * work.size, work.size) <= 0:
        return False
    work.next = work.next + 1 if work.next + 1 < work.count else 0
    return True


@compiled
def read_backlog(state: Any) -> int:
    """A read(2) for each frame that is there; how many, in ``nanoseconds``."""
    work = state[0]
    frames = 0
    started = clock_ns(_CLOCK_MONOTONIC, work.timespec_at)
    while _read_next(state):
        frames += 1
    work.nanoseconds = clock_ns(_CLOCK_MONOTONIC, work.timespec_at) - started
    return frames
