"""An interpreted worker that is stopped before any one of its stores to shared or guest memory, and replaced.

A *step* is what a driver or a replacement can see: a store to guest memory, to the segment or to one of its
records, the second half of a copy there, and a system call that writes, reads or signals. Counters are left
out: nobody goes on from them. Whoever dies, dies between two steps: so a run that is repeated, with each of
its steps as the last one of the first worker, has met every way to die. It takes MPNET_JIT=0, where every
access is a call that can be replaced.
"""

import contextlib
import itertools
import os
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

from mpnet.guest.queue import Queue
from mpnet.guest.virtqueue import notify, request_call
from mpnet.jit import memory, syscalls
from mpnet.rpc.channel import Channel
from mpnet.rpc.worker import AttachPair, Report, Request
from mpnet.segment import layout
from mpnet.workers import loop
from mpnet.workers.worker import Worker
from tests.worker_harness import PATIENCE, Harness

PLACES = ("place", "spilled", "spill_done", "state", "fault")
"""Fields of a ring's record that a replacement goes on from, or that control acts on."""
_STORES = {
    "store_u8": 1, "store_u16": 2, "store_u32": 4, "store_i64": 8,
    "store_release_u16": 2, "store_release_u32": 4, "store_release_i64": 8,
}  # fmt: skip
_CALLS = ("read", "readv", "write", "writev")
_ROUNDS = 500
"""More than any run here takes: beyond it a worker spins."""


class Died(BaseException):
    """The worker is stopped; nothing of it catches this."""


class Steps:
    """Counts the steps of workers, and ends the first worker before step ``last``.

    Attributes:
        again: the second one ends before its own step of that number; 0 lets it live.
        said: what each step was, to be shown when a test fails.
    """

    def __init__(self, last: int) -> None:
        self.last = last
        self.again = 0
        self.said: list[str] = []
        self.ranges: list[tuple[int, int]] = []
        self._counting = False

    def take(self, what: str) -> None:
        """Note a step that is about to be done."""
        if not self._counting:
            return
        self.said.append(what)
        if len(self.said) == self.last:
            self.last, self.again = self.last + self.again, 0
            raise Died

    def visible(self, address: int) -> bool:
        """Whether others than the worker see what is stored there."""
        return self._counting and any(begin <= address < end for begin, end in self.ranges)

    def armed(self) -> contextlib.AbstractContextManager[None]:
        """What is done meanwhile is the worker's."""
        return self._set(True)

    def aside(self) -> contextlib.AbstractContextManager[None]:
        """What is done meanwhile is the driver's, or the test's."""
        return self._set(False)

    @contextlib.contextmanager
    def _set(self, counting: bool) -> Iterator[None]:
        before, self._counting = self._counting, counting
        try:
            yield
        finally:
            self._counting = before


class _Current:
    """What the replaced accesses report to: one run at a time."""

    steps = Steps(0)
    calls: Callable[[int], Callable[[], None] | None] | None = None


def _watched_store(name: str, size: int, store: Callable[[int, int], None]) -> Callable[[int, int], None]:
    def watched(address: int, value: int) -> None:
        steps = _Current.steps
        if steps.visible(int(address)):
            steps.take(f"{name}({size} bytes) {int(value):#x}")
        store(address, value)

    return watched


def _watched_copy(target: int, source: int, size: int) -> None:
    steps = _Current.steps
    if steps.visible(int(target)):
        half = size // 2
        _copy(target, source, half)
        steps.take(f"second half of a copy of {size} bytes")
        target, source, size = target + half, source + half, size - half
    _copy(target, source, size)


def _watched_call(name: str, call: Callable[[int, int, int], int]) -> Callable[[int, int, int], int]:
    def watched(fd: int, address: int, size: int) -> int:
        called = name == "write" and _Current.calls is not None and _Current.calls(int(fd))
        _Current.steps.take("call" if called else name)
        result = call(fd, address, size)
        if called:
            with _Current.steps.aside():
                called()
        return result

    return watched


_copy = memory.copy


@contextlib.contextmanager
def watched_accesses() -> Iterator[None]:
    """Have every access of the data path counted, wherever it was imported to."""
    replaced: dict[int, Any] = {
        id(getattr(memory, name)): _watched_store(name, size, getattr(memory, name))
        for name, size in _STORES.items()
    }
    replaced[id(memory.copy)] = _watched_copy
    for name in _CALLS:
        replaced[id(getattr(syscalls, name))] = _watched_call(name, getattr(syscalls, name))
    undo = []
    for module in [m for name, m in sys.modules.items() if name.startswith("mpnet.") and m is not None]:
        for name, value in list(vars(module).items()):
            if id(value) in replaced:
                undo.append((module, name, value))
                setattr(module, name, replaced[id(value)])
    try:
        yield
    finally:
        for module, name, value in undo:
            setattr(module, name, value)


class _Record:
    """One ring's record in the segment, its stores counted."""

    def __init__(self, record: Any) -> None:
        object.__setattr__(self, "record", record)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.record, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in PLACES:
            _Current.steps.take(f"{name} = {int(value):#x}")
        setattr(self.record, name, value)


class _Records:
    def __init__(self, records: Any) -> None:
        self.records = records

    def __getitem__(self, index: int) -> _Record:
        return _Record(self.records[index])

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[_Record]:
        return (self[index] for index in range(len(self.records)))


class Stepped(Harness):
    """A worker that this thread drives, and what makes the driver act: calls, and the death of a worker.

    Args:
        steps: what counts.
        on_call: what the driver does when it is called, by ring number; it does nothing otherwise.
    """

    def __init__(self, steps: Steps, **options: Any) -> None:
        self.steps = _Current.steps = steps
        _Current.calls = self._reaction
        self.on_call: dict[int, Callable[[], None]] = {}
        super().__init__(**options)
        segment = self.segment.address, self.segment.address + layout.segment_bytes(1)
        guest = [(region.user_address, region.user_address + region.size) for region in self.memory.regions]
        steps.ranges += [segment, *guest]

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        _Current.calls = None

    def _start_worker(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(PATIENCE)
        theirs.settimeout(0)
        self.channel = Channel(ours, Report)
        self.worker = Worker(self.segment, 0, Channel(theirs, Request))
        # Guest memory is mapped anew by each worker.
        shared: Any = _Records(self.segment.rings)
        self.ctx = self.worker.ctx._replace(shared=shared)
        self.worker.ctx = self.worker._rings._ctx = self.ctx
        fds = [os.dup(self._tap_queue.fileno())] if self._backend == "tap" else []
        self.ask(AttachPair(0, self._backend), fds, ours=True)
        self.set_memory()
        regions = self.ctx.regions[: self.ctx.worker[0].regions]
        self.steps.ranges += [(int(r.host_address), int(r.host_address + r.length)) for r in regions]

    def ask(self, message: Any, fds: list[int] | None = None, *, ours: bool = False) -> Any:
        self.channel.send(message, fds or [])
        if ours:
            for fd in fds or []:
                os.close(fd)
        self.worker._take_messages()
        report, _ = self.channel.receive()
        return report

    def stop_worker(self) -> None:
        """Close what a dead worker's process would have had; what that does to shared memory is undone."""
        with self.steps.aside():
            table = self.segment._memory
            left = bytes(table)
            self.worker.close()
            self.channel.close()
            table[:] = left

    def replace_worker(self) -> None:
        with self.steps.aside():
            self.stop_worker()
            self._start_worker()
        self.start(None)

    def serve(self) -> None:
        """Serve until the worker would sleep, and nothing wakes it."""
        ctx = self.ctx
        for _ in range(_ROUNDS):
            busy = loop._serve_queues(ctx)
            loop._wait(ctx, 0)
            if not busy and not any(ring.ready and ring.started for ring in ctx.rings[:2]):
                return
        raise AssertionError(f"the worker spins: {self.steps.said[-20:]}")

    def _reaction(self, fd: int) -> Callable[[], None] | None:
        """What a driver does when ``fd`` is written, if that calls one."""
        for queue in (self.rx, self.tx):
            if fd == self.ctx.rings[queue.ring.index].call_fd:
                return lambda: self._call(queue)
        return None

    def _call(self, queue: Queue) -> None:
        assert queue.ring.call_fd is not None
        os.eventfd_read(queue.ring.call_fd)
        if queue.ring.index in self.on_call:
            self.on_call[queue.ring.index]()


def wake(queue: Queue, react: Callable[[], None]) -> None:
    """What a driver does when it is called: take and give until there is nothing, then ask for the next call."""
    for _ in itertools.repeat(None, _ROUNDS):
        react()
        notify(queue.virtqueue)
        if not request_call(queue.virtqueue):
            return
    raise AssertionError("the ring never comes to rest")
