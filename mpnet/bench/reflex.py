"""Round trips with no ring: one thread asks, one on the device's processor exchanges a frame with the TAP.

Asleep, the two wake each other through eventfds, with blocking reads; polling, through two words of memory.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpnet.jit.compile import compiled
from mpnet.jit.memory import load_acquire_i64, store_release_i64
from mpnet.jit.syscalls import clock_ns, read, write

_CLOCK_MONOTONIC = 1
_ROOM = 2048
_TRIES = 1 << 20
"""Some tenths of a second: an answer that is not there by then was lost."""

STATE = np.dtype(
    [
        ("fd", "i8"),  # of the TAP
        ("data", "i8"),  # address of header and frame
        ("size", "i8"),
        ("room", "i8"),  # address of room for the answer
        ("kick_fd", "i8"),  # -1: both poll
        ("call_fd", "i8"),
        ("words_at", "i8"),  # address of three cache lines: rounds asked for, rounds done, stop
        ("one_at", "i8"),  # addresses of 64 bytes of scratch for each thread; the first word is 1
        ("other_at", "i8"),
    ]
)
_LINE = 64


@contextmanager
def reflex(fd: int, contents: bytes, *, polled: bool) -> Iterator[Any]:
    """A record for the two loops, shape ``(1,)``.

    Args:
        fd: a TAP queue, non-blocking.
        contents: virtio-net header and frame that the host answers with one frame.
        polled: poll instead of sleeping.
    """
    memory = np.zeros(5 * _LINE // 8, np.int64)
    memory[3 * _LINE // 8] = memory[4 * _LINE // 8] = 1
    data, room = np.frombuffer(contents, np.uint8), np.zeros(_ROOM, np.uint8)
    state = np.zeros(1, STATE).view(np.recarray)
    record, start = state[0], memory.ctypes.data
    record.fd, record.data, record.size, record.room = fd, data.ctypes.data, len(data), room.ctypes.data
    record.words_at, record.one_at, record.other_at = start, start + 3 * _LINE, start + 4 * _LINE
    eventfds = [] if polled else [os.eventfd(0), os.eventfd(0)]
    record.kick_fd, record.call_fd = eventfds or (-1, -1)
    try:
        yield state
    finally:
        for eventfd in eventfds:
            os.close(eventfd)


@compiled
def answer(state: Any) -> None:
    """For each time it is asked: write the frame, read the answer, tell the asker; until it is told to stop."""
    work = state[0]
    rounds = 0
    while True:
        if work.kick_fd >= 0:
            read(work.kick_fd, work.other_at + 8, 8)
        else:
            while load_acquire_i64(work.words_at) == rounds:
                pass
        if load_acquire_i64(work.words_at + 2 * _LINE) != 0:
            return
        rounds += 1
        write(work.fd, work.data, work.size)
        tries = 0
        while read(work.fd, work.room, _ROOM) <= 0 and tries < _TRIES:
            tries += 1
        if work.kick_fd >= 0:
            write(work.call_fd, work.other_at, 8)
        else:
            store_release_i64(work.words_at + _LINE, rounds)


@compiled
def ask(state: Any, times: NDArray[np.int64], nanoseconds: int) -> int:
    """Ask for so long, nanoseconds of each round trip to ``times``; how many. ``answer`` must be running."""
    work = state[0]
    count = 0
    now = clock_ns(_CLOCK_MONOTONIC, work.one_at + 16)
    end = now + nanoseconds
    rounds = load_acquire_i64(work.words_at)
    while now < end and count < len(times):
        started = clock_ns(_CLOCK_MONOTONIC, work.one_at + 16)
        rounds += 1
        store_release_i64(work.words_at, rounds)
        if work.kick_fd >= 0:
            write(work.kick_fd, work.one_at, 8)
            read(work.call_fd, work.one_at + 8, 8)
        else:
            while load_acquire_i64(work.words_at + _LINE) != rounds:
                pass
        now = clock_ns(_CLOCK_MONOTONIC, work.one_at + 16)
        times[count] = now - started
        count += 1
    return count


@compiled
def stop(state: Any) -> None:
    """End ``answer``."""
    work = state[0]
    store_release_i64(work.words_at + 2 * _LINE, 1)
    store_release_i64(work.words_at, load_acquire_i64(work.words_at) + 1)
    if work.kick_fd >= 0:
        write(work.kick_fd, work.one_at, 8)
