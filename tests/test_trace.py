"""Traces: what is written to them, what a reader makes of it, and the command that prints it."""

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from mmap import mmap
from typing import Any

import pytest

from mpnet.cli.trace import _lines
from mpnet.control import leftovers
from mpnet.control.log import get_log
from mpnet.guest.driver import Driver, Setup
from mpnet.guest.frame import Frame
from mpnet.rpc.worker import StopRing, TraceBursts
from mpnet.segment.attachments import Attachments
from mpnet.segment.layout import TRACE_BYTES, TRACE_ENTRIES, Fault, RestartReason
from mpnet.segment.segment import Segment
from mpnet.segment.trace import KINDS, VALUES, Event, Kind, Trace
from tests.real.running import MPNET, Running, running_on_tap, wait_until
from tests.worker_harness import Harness

FRAME = Frame(bytes(60))


@pytest.fixture
def trace() -> Trace:
    return Trace(mmap(-1, TRACE_BYTES), 0)


def test_every_kind_has_names_for_its_values() -> None:
    assert VALUES.keys() == set(Kind)
    assert all(len(names) <= 3 for names in VALUES.values())


def test_a_reader_gets_each_event_once_in_order(trace: Trace) -> None:
    trace.record(Kind.SESSION_OPENED, -1, 42)
    trace.record(Kind.WORKER_ENDED, 3, 43, RestartReason.HUNG)
    events, lost = trace.read()
    assert ([event.number for event in events], lost) == ([1, 2], 0)
    assert [(event.kind, event.subject) for event in events] == [
        (Kind.SESSION_OPENED, -1),
        (Kind.WORKER_ENDED, 3),
    ]
    assert [event.named_values() for event in events] == [{"pid": 42}, {"pid": 43, "reason": "hung"}]
    assert trace.read(2) == ([], 0)
    trace.record(Kind.SESSION_CLOSED)
    assert [event.number for event in trace.read(2)[0]] == [3]


def test_a_reader_is_told_how_many_were_overwritten(trace: Trace) -> None:
    for number in range(TRACE_ENTRIES + 10):
        trace.record(Kind.BURST, 0, number)
    events, lost = trace.read()
    assert (len(events), lost) == (TRACE_ENTRIES, 10)
    assert [event.values[0] for event in events] == list(range(10, TRACE_ENTRIES + 10))
    assert trace.read(5)[1] == 5


def test_an_event_that_is_being_written_is_not_read(trace: Trace) -> None:
    """As it stays when the writer dies: the next one goes on over it."""
    for number in range(TRACE_ENTRIES):
        trace.record(Kind.BURST, 0, number)
    trace._events[0]["sequence"] = 0
    events, lost = trace.read()
    assert (events[0].number, lost) == (2, 1)
    trace.record(Kind.BURST, 0, 7)
    assert trace.read(TRACE_ENTRIES)[0][0].values[0] == 7


@pytest.mark.parametrize("count", [(1 << 63) - 1, -(1 << 63), -1])
def test_whatever_a_worker_wrote_for_a_count_control_goes_on_recording(trace: Trace, count: int) -> None:
    trace._count[0] = count
    trace.record(Kind.WORKER_ENDED, 0, 1, 2)
    trace.record(Kind.WORKER_LAUNCHED, 0, 1)
    assert [event.kind for event in trace.read(trace.count - 1)[0]] == [Kind.WORKER_LAUNCHED]


def test_an_event_of_another_version_is_told_by_its_number() -> None:
    assert Event(1, 0, 999, -1, (1, 2, 3)).named_values() == {}
    assert 999 not in KINDS


def kinds(events: list[Event]) -> list[str]:
    """What happened; a busy machine may stall a worker at any time."""
    return [KINDS[event.kind] for event in events if event.kind != Kind.STALLED]


def test_a_worker_tells_what_it_is_made_to_do() -> None:
    with Harness() as harness:
        harness.start()
        harness.start(None, enabled=False)
        harness.ask(StopRing(0))
        trace = harness.segment.traces[0]
        events, _ = trace.read()
        assert kinds(events) == [
            "worker_started",
            "pair_attached",
            "memory_set",
            "ring_started",
            "ring_started",
            "ring_disabled",
            "ring_disabled",
            "ring_stopped",
        ]
        assert events[0].named_values() == {"pid": os.getpid()}
        assert events[2].named_values() == {"regions": 1, "bytes": 16 << 20}
        assert [event.subject for event in events[3:]] == [0, 1, 0, 1, 0]
        assert events[3].named_values() == {"entries": 64, "place": 0}
        assert harness.segment.rings.worker.tolist() == [1, 1, 1], "and that it serves them"
        harness.stop_worker()
        assert harness.segment.rings.worker.tolist() == [0, 0, 0]
        assert kinds(trace.read(len(events))[0]) == ["worker_stopped"]
        harness._start_worker()
        assert kinds(trace.read(len(events) + 1)[0]) == ["worker_started", "pair_attached", "memory_set"]


def test_a_worker_tells_how_a_ring_broke() -> None:
    with Harness() as harness:
        harness.start()
        harness.memory.write(harness.tx.guest.avail + 2, (5000).to_bytes(2, "little"))
        assert harness.tx.ring.kick_fd is not None
        os.eventfd_write(harness.tx.ring.kick_fd, 1)
        assert harness.next_report().fault == Fault.AVAIL_INDEX
        event = harness.segment.traces[0].read()[0][-1]
        assert (event.kind, event.subject) == (Kind.RING_BROKEN, 1)
        assert event.named_values() == {"fault": "avail_index", "place": 0}


def test_bursts_are_traced_while_that_is_asked_for() -> None:
    with Harness() as harness:
        harness.start()
        trace = harness.segment.traces[0]
        before = trace.count
        harness.sender.send([FRAME] * 3)
        assert kinds(trace.read(before)[0]) == []
        harness.ask(TraceBursts(on=True))
        harness.sender.send([FRAME] * 5)
        harness.ask(TraceBursts(on=False))
        harness.sender.send([FRAME] * 7)
        events, _ = trace.read(before)
        assert {event.subject for event in events} == {1}
        assert set(kinds(events)) == {"burst"}
        assert sum(event.values[0] for event in events) == 5
        assert events[-1].values[1] == 8  # of the ring: three and five chains are returned


@pytest.fixture(scope="module")
def device() -> Iterator[Running]:
    with running_on_tap(queue_pairs=2) as running:
        yield running


def read_trace(*words: str) -> list[dict[str, Any]]:
    """What ``mpnet trace --json`` prints."""
    result = subprocess.run(
        [MPNET, "trace", "--json", *words], capture_output=True, text=True, timeout=120, check=True
    )
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_bursts_are_traced_as_long_as_the_command_runs(device: Running) -> None:
    traces = Segment.attach("net0").traces

    def new_bursts(driver: Driver) -> int:
        before = [trace.count for trace in traces]
        driver.send(0, [FRAME.data])
        driver.send(1, [FRAME.data])
        new = (trace.read(count)[0] for trace, count in zip(traces, before, strict=True))
        return sum(kinds(events).count("burst") for events in new)

    with Driver.connect(device.socket, Setup(queue_pairs=2)) as driver:
        assert new_bursts(driver) == 0
        command = [MPNET, "trace", "net0", "--json", "--bursts", "--control-socket", device.control]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
            wait_until(lambda: new_bursts(driver) > 0, "bursts are traced")
            assert watching.stdout is not None
            burst = next(event for line in watching.stdout if (event := json.loads(line))["event"] == "burst")
            watching.kill()
        assert (burst["device"], burst["ring"], burst["packets"]) == ("net0", "tx", 1)
        wait_until(
            lambda: new_bursts(driver) == 0, "bursts are not traced any more, though the command was killed"
        )


def count(events: list[dict[str, Any]]) -> Counter[tuple[str, int | None, str]]:
    return Counter((event["process"], event["worker"], event["event"]) for event in events)


def test_the_command_tells_a_restart_and_what_a_crash_left(device: Running) -> None:
    with Driver.connect(device.socket, Setup(queue_pairs=2)) as driver:
        killed = device.workers()[1]
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: device.workers()[1:] not in ([], [killed]), "the worker is replaced")
        driver.send(1, [FRAME.data])
        device.kill()  # so no test of it comes after this one
        events = read_trace("net0")
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)
    ever = count(events)
    assert ever["worker", 0, "worker_started"] == 1
    assert ever["worker", 1, "worker_started"] == 2
    session = events[max(at for at, event in enumerate(events) if event["event"] == "session_opened") :]
    told = count(session)
    assert told["control", None, "features_set"] == 1
    assert told["worker", 1, "ring_started"] == 4
    (ended,) = [event for event in events if event["event"] == "worker_ended"]
    assert (ended["of"], ended["pid"], ended["reason"]) == (1, killed, "killed")
    started = [event for event in session if event["event"] == "ring_started" and event["worker"] == 0]
    assert [(event["queue"], event["ring"], event["entries"]) for event in started] == [
        (0, "rx", 256),
        (0, "tx", 256),
    ]
    text = subprocess.run([MPNET, "trace"], capture_output=True, text=True, timeout=120, check=True).stdout
    assert len(text.splitlines()) == len(events)
    assert f"worker_ended      of 1        pid={killed} reason=killed\n" in text
    leftovers.clear("net0", get_log())
    refused = subprocess.run([MPNET, "trace", "net0"], capture_output=True, text=True, timeout=120, check=False)
    assert refused.returncode == 1
    assert "no shared memory /mpnet.net0" in refused.stderr


def test_a_command_that_is_overtaken_says_so_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    segment = Segment.create("test-overtaken", 1)
    try:
        trace = segment.traces[0]

        def overtake() -> None:
            trace.record(Kind.BURST, 0, 2)
            trace._events[1]["sequence"] = 0

        meanwhile = iter([overtake, lambda: trace.record(Kind.BURST, 0, 3)])
        monkeypatch.setattr("mpnet.cli.trace.time.sleep", lambda _: next(meanwhile)())
        trace.record(Kind.BURST, 0, 1)
        lines = _lines(Attachments(["test-overtaken"]), follow=True)
        assert [(line.event.number, line.lost) for line in islice(lines, 3)] == [(1, 0), (3, 1), (3, 0)]
    finally:
        segment.unlink()


def test_a_reader_that_stays_follows_a_device_to_its_next_segment() -> None:
    attachments = Attachments(["test-follow"])
    assert attachments.current() == {}
    first = Segment.create("test-follow", 1)
    found = attachments.current()["test-follow"]
    assert attachments.current()["test-follow"] is found
    first.unlink()
    assert attachments.current() == {}
    second = Segment.create("test-follow", 2)
    assert attachments.current()["test-follow"].queue_pairs == 2
    second.unlink()
