"""Full-speed traffic on one queue pair: a source and a sink in one compiled loop that holds no lock.

One thread runs a pair; several pairs run in as many threads, for the loop leaves the GIL alone. Counters may be
read while it runs.
"""

import select
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpnet.errors import MpnetError
from mpnet.guest.driver import QueuePair
from mpnet.guest.sink import UNLIMITED, Sink, make_sink, receive_burst, received_all
from mpnet.guest.source import Source, make_source, send_burst, sent_all
from mpnet.guest.stream import Stream
from mpnet.guest.virtqueue import Virtqueue, request_call
from mpnet.jit.compile import compiled
from mpnet.jit.memory import load_acquire_i64
from mpnet.jit.syscalls import clock_ns, epoll_wait, read
from mpnet.virtio.features import Feature, has

__all__ = ["UNLIMITED", "Report", "Traffic"]

_CLOCK_MONOTONIC = 1
_CLOCK_EVERY = 64
_SCRATCH_WORDS = 8
_EPOLL_EVENTS = 2
_MERGEABLE_BUFFER = 2048

DONE, STOPPED, DEADLINE, BROKEN_QUEUE = range(4)
CONTROL = np.dtype(
    [
        ("stop", "i8"),  # set to 1 from anywhere to end the run
        ("stop_address", "i8"),
        ("deadline_ns", "i8"),  # CLOCK_MONOTONIC
        ("started_ns", "i8"),
        ("ended_ns", "i8"),
        ("spins", "i8"),  # turns without work before it sleeps
        ("sleep_ms", "i8"),  # the longest sleep: by then it looks at stop and deadline
        ("epoll_fd", "i8"),  # of both call eventfds
        ("rx_call_fd", "i8"),
        ("tx_call_fd", "i8"),
        ("sleeps", "i8"),
        ("scratch", "i8"),  # host address of 64 bytes
    ]
)


class Pump(NamedTuple):
    """All the compiled loop works on."""

    control: Any
    rx: Virtqueue
    tx: Virtqueue
    source: Source
    sink: Sink


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a ``Traffic`` does besides its stream.

    Args:
        receive: keep the rx queue filled and check what comes.
        check: compare every byte of payload, not the marks alone.
        burst: frames at most that are sent, or buffers taken, at a time.
        flow_run: frames of one flow in a row before the next flow's turn.
        spins: turns without work before the thread sleeps until the device calls.
    """

    receive: bool = True
    check: bool = True
    burst: int = 32
    flow_run: int = 1
    spins: int = 200


@dataclass(frozen=True, slots=True)
class Report:
    """What one run came to; counts are of this run alone.

    Attributes:
        seconds: how long it ran.
        finished: both limits were reached; else it was stopped, or out of time.
        sent: counters of ``SOURCE``: frames, packets (datagrams), bytes.
        received: counters of ``SINK``: frames, packets, bytes, corrupt, lost, reordered, other and so on.
    """

    seconds: float
    finished: bool
    sent: dict[str, int]
    received: dict[str, int]


SENT = ("frames", "packets", "bytes", "returned")
RECEIVED = (
    "frames",
    "packets",
    "bytes",
    "merged_frames",
    "gso_frames",
    "corrupt",
    "lost",
    "reordered",
    "other",
)


class Traffic:
    """A source and a sink on one queue pair, which nothing else may use meanwhile.

    Args:
        pair: queue pair of a started driver; its memory must outlive every run.
        stream: what is sent, and recognised.
        plan: how.

    Attributes:
        source: its counters, live.
        sink: its counters, live; ``received`` by flow.

    Raises:
        MpnetError: the stream needs an offload that was not negotiated.
    """

    def __init__(self, pair: QueuePair, stream: Stream, plan: Plan) -> None:
        _check_offloads(stream, pair.features)
        self._pair = pair
        memory, header = pair.tx.memory, pair.header_bytes
        self.source = make_source(
            memory, pair.tx.ring.size, stream, header, burst=plan.burst, flow_run=plan.flow_run
        )
        mergeable = has(pair.features, Feature.MRG_RXBUF)
        size = _MERGEABLE_BUFFER if mergeable else pair.any_frame_bytes
        self.sink = make_sink(memory, pair.rx.ring.size, stream, header, buffer_bytes=size, burst=plan.burst)
        sink = self.sink.state[0]
        sink.enabled, sink.check, sink.mergeable = int(plan.receive), int(plan.check), int(mergeable)
        self._scratch: NDArray[np.int64] = np.zeros(_SCRATCH_WORDS, np.int64)
        self._control = self._make_control(plan)

    def _make_control(self, plan: Plan) -> Any:
        state = np.zeros(1, CONTROL).view(np.recarray)
        record = state[0]
        record.stop_address = state.ctypes.data
        record.scratch = self._scratch.ctypes.data
        record.spins, record.sleep_ms = plan.spins, 50
        return state

    def stop(self) -> None:
        """End the run that is under way, from another thread; without one, the next."""
        self._control[0].stop = 1

    def run(self, seconds: float, send: int = UNLIMITED, receive: int = UNLIMITED) -> Report:
        """Send and receive until both limits are reached, ``stop`` is called or ``seconds`` are over.

        Args:
            seconds: how long at most.
            send: datagrams to send; 0 for none.
            receive: datagrams to wait for; 0 for none beyond what comes meanwhile.

        Raises:
            MpnetError: the device broke a queue: it returned a chain it does not hold, or wrote past one.
        """
        source, sink, control = self.source.state[0], self.sink.state[0], self._control[0]
        sent, received = _counters(source, SENT), _counters(sink, RECEIVED)
        source.limit = send if send == UNLIMITED else sent["packets"] + send
        sink.limit = receive if receive == UNLIMITED else received["packets"] + received["corrupt"] + receive
        reason = self._pump(seconds)
        if reason == BROKEN_QUEUE:
            raise MpnetError("the device returned a chain it does not hold, or says it wrote past one")
        return Report(
            (int(control.ended_ns) - int(control.started_ns)) / 1e9,
            reason == DONE,
            {name: count - sent[name] for name, count in _counters(source, SENT).items()},
            {name: count - received[name] for name, count in _counters(sink, RECEIVED).items()},
        )

    def _pump(self, seconds: float) -> int:
        control = self._control[0]
        rx, tx = self._pair.rx, self._pair.tx
        calls = [-1 if queue.ring.call_fd is None else queue.ring.call_fd for queue in (rx, tx)]
        control.rx_call_fd, control.tx_call_fd = calls
        with select.epoll() as epoll:
            for fd in calls:
                if fd >= 0:
                    epoll.register(fd, select.EPOLLIN)
            control.epoll_fd = epoll.fileno()
            reason = pump(
                Pump(self._control, rx.virtqueue, tx.virtqueue, self.source, self.sink), int(seconds * 1e9)
            )
        control.stop = 0
        return reason


def _check_offloads(stream: Stream, features: int) -> None:
    """A driver must not ask for what it did not negotiate (VIRTIO 5.1.6.2.1)."""
    missing = [feature.name for feature in stream.needs if not has(features, feature)]
    if missing:
        raise MpnetError(
            f"the stream needs {' and '.join(missing)}, which was not negotiated",
            "ask for it in Setup.features; where the device does not offer it, send without offload",
        )


def _counters(record: Any, names: tuple[str, ...]) -> dict[str, int]:
    return {name: int(record[name]) for name in names}


@compiled
def pump(work: Pump, nanoseconds: int) -> int:
    """Run for ``nanoseconds`` at most; return why it ended."""
    control = work.control[0]
    control.started_ns = clock_ns(_CLOCK_MONOTONIC, control.scratch)
    control.deadline_ns = control.started_ns + nanoseconds
    control.ended_ns = control.started_ns
    idle = 0
    turns = 0
    while True:
        # Buffers first: an answer to the first frame finds room.
        taken = receive_burst(work.rx, work.sink) if work.sink.state[0].enabled != 0 else 0
        moved = send_burst(work.tx, work.source)
        if moved < 0 or taken < 0:
            reason = BROKEN_QUEUE
            break
        if sent_all(work.source) and received_all(work.sink):
            reason = DONE
            break
        if load_acquire_i64(control.stop_address) != 0:
            reason = STOPPED
            break
        turns += 1
        idle = idle + 1 if moved + taken == 0 else 0
        if idle > control.spins:
            _sleep(work)
            idle = 0
            turns = 0
        if turns % _CLOCK_EVERY == 0:
            control.ended_ns = clock_ns(_CLOCK_MONOTONIC, control.scratch)
            if control.ended_ns >= control.deadline_ns:
                reason = DEADLINE
                break
    control.ended_ns = clock_ns(_CLOCK_MONOTONIC, control.scratch)
    return reason


@compiled
def _sleep(work: Pump) -> None:
    """Sleep until the device calls, no longer than ``sleep_ms`` and the deadline."""
    control = work.control[0]
    ready = request_call(work.tx)
    if work.sink.state[0].enabled != 0:
        ready = request_call(work.rx) or ready
    if ready:
        return
    now = clock_ns(_CLOCK_MONOTONIC, control.scratch)
    left_ms = max(0, (control.deadline_ns - now) // 1_000_000)
    # Without eventfds nobody wakes us.
    longest = control.sleep_ms if control.rx_call_fd >= 0 else 1
    control.sleeps += 1
    epoll_wait(control.epoll_fd, control.scratch + 16, _EPOLL_EVENTS, min(longest, left_ms))
    if control.rx_call_fd >= 0:
        work.rx.state[0].calls += read(control.rx_call_fd, control.scratch, 8) > 0
        work.tx.state[0].calls += read(control.tx_call_fd, control.scratch, 8) > 0
