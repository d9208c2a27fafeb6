"""The bare system calls in tight compiled loops: what a device on a TAP could reach if rings cost nothing."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpnet.bench.generator import Generator, begin, generate
from mpnet.jit.compile import compiled
from mpnet.jit.memory import copy, load_acquire_i64, store_release_i64
from mpnet.jit.syscalls import clock_ns, epoll_wait, read, write
from mpnet.jit.uring import complete, submit, write_fixed

_CLOCK_MONOTONIC = 1
_CLOCK_EVERY = 64
_RESTS = 8
_REST_NS = 20_000
"""A reader that is back at an empty queue at once slows the sender down: the two fight for its memory."""
_SLEEP_MS = 10
_TELL_EVERY = 16
"""Frames after which the sender is told: a word that two processors share costs each of them time."""
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
        ("stop", "i8"),
        ("stop_at", "i8"),  # addresses of those that another thread looks at
        ("frames_at", "i8"),
        ("epoll_fd", "i8"),  # waits for fd to be readable
        ("events", "i8", (2,)),
        ("events_at", "i8"),
        ("timespec", "i8", (2,)),
        ("timespec_at", "i8"),
        ("feed_timespec", "i8", (2,)),
        ("feed_timespec_at", "i8"),
    ]
)


def make_state(fd: int, data: NDArray[np.uint8], size: int) -> Any:
    """A record for the loops below, shape ``(1,)``; ``data`` must outlive it."""
    state = np.zeros(1, STATE).view(np.recarray)
    record, start = state[0], state.ctypes.data
    fields: Any = STATE.fields
    record.fd, record.data, record.size, record.count = fd, data.ctypes.data, size, len(data) // size
    record.stop_at, record.frames_at = start + fields["stop"][1], start + fields["frames"][1]
    record.events_at = start + fields["events"][1]
    record.timespec_at = start + fields["timespec"][1]
    record.feed_timespec_at = start + fields["feed_timespec"][1]
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
def _rest(state: Any) -> None:
    """Keep the processor for a moment and touch nothing that is shared."""
    work = state[0]
    end = clock_ns(_CLOCK_MONOTONIC, work.timespec_at) + _REST_NS
    while clock_ns(_CLOCK_MONOTONIC, work.timespec_at) < end:
        pass


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


@compiled
def read_each(state: Any) -> None:
    """A read(2) for each frame until told to stop; it sleeps only where there has been nothing for a while."""
    work = state[0]
    frames = work.frames
    idle = 0
    while load_acquire_i64(work.stop_at) == 0:
        if _read_next(state):
            frames += 1
            if frames % _TELL_EVERY == 0:
                store_release_i64(work.frames_at, frames)
            idle = 0
            continue
        store_release_i64(work.frames_at, frames)
        if idle < _RESTS:
            _rest(state)
            idle += 1
        else:
            # Who polls for ever is the first to be put off its processor by others, and late when a frame comes.
            epoll_wait(work.epoll_fd, work.events_at, 1, _SLEEP_MS)
            idle = 0


@compiled
def feed(state: Any, sender: Generator, nanoseconds: int) -> int:
    """Send what ``read_each`` reads in another thread, for so long; nanoseconds it took."""
    work = state[0]
    timespec = work.feed_timespec_at  # not the reader's
    payload = sender.state[0].payload
    begin(sender, load_acquire_i64(work.frames_at) * payload)
    started = clock_ns(_CLOCK_MONOTONIC, timespec)
    now = started
    while now - started < nanoseconds:
        for _ in range(_CLOCK_EVERY):
            generate(sender, load_acquire_i64(work.frames_at) * payload)
        now = clock_ns(_CLOCK_MONOTONIC, timespec)
    return now - started
