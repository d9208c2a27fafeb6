"""The limit: a case's bare system calls in a tight compiled loop on the device's processor, with no ring."""

import ctypes
import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpnet.bench import loops
from mpnet.bench.bed import Bed, Wire
from mpnet.bench.case import RING_SIZE, Case
from mpnet.bench.generator import frames, generator, send
from mpnet.bench.ping import echo_request, percentiles
from mpnet.bench.pool import BUFFER_BYTES
from mpnet.bench.reflex import answer, ask, reflex, stop
from mpnet.bench.system import Turn
from mpnet.bench.work import amount, rate, warm
from mpnet.jit.uring import Uring
from mpnet.tap import ioctls
from mpnet.virtio.features import Feature, has
from mpnet.virtio.net_header import BYTES

_LARGE = 4096
"""Bytes from which on copying is all that counts, for which fixed buffers are no help: they go page by page."""
_CLONE_FILES = 0x400  # linux/sched.h
_MOST_ROUNDS = 1 << 20


class Limit:
    """No device at all."""

    name = "limit"

    def absent(self) -> str:
        """It is always here; io_uring where it is allowed, plain writes where not."""
        return ""

    def version(self) -> str:
        """The kernel's, which is all there is."""
        return platform.release()

    def serves(self, case: Case) -> bool:
        """What goes through one TAP queue; of rings, a copy of each frame is what is left."""
        return case.kind in _TURNS or case.kind == "ring"

    @contextmanager
    def open(self, bed: Bed, case: Case) -> Iterator[Turn]:
        """Open the TAP as a device would."""
        if case.kind == "ring":
            with _copies(bed, case) as turn:
                yield turn
            return
        with (
            bed.tap("limit0") as wire,
            _queue(wire, case) as fd,
            _TURNS[case.kind](wire, case, fd, bed.device_cpu) as turn,
        ):
            yield turn


def _alone(cpu: int) -> ThreadPoolExecutor:
    """A thread on the device's processor, with a file table of its own: a copy, made when it is first used.

    Where threads share one, the kernel counts the users of each file in a system call, which takes some 30 ns.
    """
    return ThreadPoolExecutor(1, initializer=_leave, initargs=(cpu,))


def _leave(cpu: int) -> None:
    os.sched_setaffinity(0, {cpu})
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_FILES):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_FILES)")


@contextmanager
def _copies(bed: Bed, case: Case) -> Iterator[Turn]:
    """Bare copies of a ring's worth of frames, on one processor: nothing has to come from another."""
    size = BYTES + case.frame_bytes
    room = np.zeros(2 * RING_SIZE * size, np.uint8)
    state = loops.make_state(-1, room, size)
    loops.copy_each(state, RING_SIZE, 0)  # compiled before its time is measured
    with _alone(bed.device_cpu) as thread:

        def turn(seconds: float) -> dict[str, float]:
            before = int(state[0].frames)
            thread.submit(loops.copy_each, state, RING_SIZE, int(seconds * 1e9)).result()
            each = int(state[0].nanoseconds) / (int(state[0].frames) - before)
            return {"": 1e9 / each, "cost": each}

        yield turn


@contextmanager
def _queue(wire: Wire, case: Case) -> Iterator[int]:
    fd = ioctls.open_queue(wire.name, multi_queue=False)
    try:
        ioctls.set_header(fd, BYTES)
        offloads = ioctls.TUN_F_CSUM
        if has(case.features, Feature.GUEST_TSO4):
            offloads |= ioctls.TUN_F_TSO4
        if case.kind == "rx" and case.segments > 1 and not case.tcp:
            offloads |= ioctls.TUN_F_USO4 | ioctls.TUN_F_USO6
        ioctls.set_offload(fd, offloads)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _transmit(wire: Wire, case: Case, fd: int, cpu: int) -> Iterator[Turn]:
    """Writes; where a device may coalesce, of frames that are as long as they get."""
    stream = replace(case, segments=max(case.segments, case.coalesced)).stream(wire)
    # As much memory is read as a driver's ring has, or the processor's cache would do the work.
    copies = max(1, round(RING_SIZE / (case.flows * case.coalesced)))
    contents = [stream.header().pack(BYTES) + frame for frame in frames(stream)] * copies
    data = np.frombuffer(b"".join(contents), np.uint8)
    state = loops.make_state(fd, data, len(contents[0]))

    def run(seconds: float) -> None:
        state[0].frames = 0
        _write(state, data, fd, int(seconds * 1e9))

    def turn(seconds: float) -> dict[str, float]:
        thread.submit(run, warm(seconds)).result()
        before = wire.received()
        thread.submit(run, seconds).result()
        written = int(state[0].frames) * case.coalesced
        arrived = wire.received() - before
        return {"": rate(case, wire, written, arrived, int(state[0].nanoseconds) / 1e9)}

    with _alone(cpu) as thread:
        yield turn


def _write(state: Any, data: NDArray[np.uint8], fd: int, nanoseconds: int) -> None:
    """In batches where that gains something and the kernel lets; a ring is its thread's own."""
    if int(state[0].size) > _LARGE:
        loops.write_each(state, nanoseconds)
        return
    try:
        ring = Uring(loops.BATCH, [fd], [(int(data.ctypes.data), data.nbytes)])
    except OSError:
        loops.write_each(state, nanoseconds)
        return
    with ring:
        loops.write_batches(state, ring.state, nanoseconds)


@contextmanager
def _receive(wire: Wire, case: Case, fd: int, cpu: int) -> Iterator[Turn]:
    """Reads of what this thread has sent."""
    size = -(-(BYTES + len(case.stream(wire).frame())) // BUFFER_BYTES) * BUFFER_BYTES
    # As much memory is written to as a driver's ring has, or the processor's cache would do the work.
    room = np.zeros(max(1, RING_SIZE * BUFFER_BYTES // size) * size, np.uint8)
    state = loops.make_state(fd, room, size)
    record = state[0]
    each = amount(case, wire)
    loops.read_backlog(state)  # compiled before its time is measured

    def run(seconds: float) -> float:
        end = time.monotonic() + seconds
        came, took = 0, 0
        while time.monotonic() < end:
            send(sender, case.backlog)
            came += thread.submit(loops.read_backlog, state).result()
            took += int(record.nanoseconds)
        return came * each / (took / 1e9)

    def turn(seconds: float) -> dict[str, float]:
        run(warm(seconds))
        return {"": run(seconds)}

    with generator(wire, case) as sender, _alone(cpu) as thread:
        yield turn


@contextmanager
def _round_trips(wire: Wire, case: Case, fd: int, cpu: int) -> Iterator[Turn]:
    """A wake-up, a write, a read and a wake-up back."""
    times = np.zeros(_MOST_ROUNDS, np.int64)

    def turn(seconds: float) -> dict[str, float]:
        with (
            reflex(fd, bytes(BYTES) + echo_request(wire), polled=case.polled) as state,
            _alone(cpu) as thread,
        ):
            answering = thread.submit(answer, state)
            try:
                count = ask(state, times, int(seconds * 1e9))
            finally:
                stop(state)
                answering.result()
            return percentiles(times[:count])

    yield turn


_TURNS: dict[str, Callable[[Wire, Case, int, int], Any]] = {
    "tx": _transmit,
    "rx": _receive,
    "rtt": _round_trips,
}
