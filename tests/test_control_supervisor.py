"""Workers as processes: requests, ends, replacement, moves and the ladder that stops them.

The workers are fake ones that follow a script; TAP queues and rings are stood for by eventfds.
"""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import Mock

import msgpack
import msgspec
import psutil
import pytest

from mpnet.control import descriptors
from mpnet.control import supervisor as supervision
from mpnet.control.budget import Budget
from mpnet.control.compilation import Told
from mpnet.control.desired import Desired, RingSetting
from mpnet.control.launcher import Launcher
from mpnet.control.log import get_log
from mpnet.control.supervisor import Supervisor, Surroundings
from mpnet.control.worker import Ending, Listener, Worker, WorkerLostError, WorkerRefusedError
from mpnet.errors import MpnetError
from mpnet.rpc.channel import Channel
from mpnet.rpc.worker import AttachPair, ControlCommand, Forbidden, Isolated, Report, RingBroken, SetMemory
from mpnet.segment.layout import Code, RestartReason
from mpnet.segment.segment import Segment
from mpnet.vhost_user.effects import MemoryRegion
from tests.control_harness import HASTY, QUICK, Script, eventually, fake_workers
from tests.real.netns import network_namespace
from tests.test_control_descriptors import lingering


@pytest.fixture
def scripted() -> Iterator[tuple[Script, Launcher]]:
    with fake_workers() as both:
        yield both


@asynccontextmanager
async def _worker(script: Script, launcher: Launcher) -> AsyncIterator[tuple[Worker, list[Ending]]]:
    segment = Segment.create(script.device, 1)
    endings: list[Ending] = []
    listener = Listener(lambda *_: None, lambda _, ending: endings.append(ending))
    worker = Worker(segment, 0, launcher, listener, QUICK)
    try:
        await worker.start()
        yield worker, endings
        await worker.stop()
    finally:
        segment.unlink()


@asynccontextmanager
async def _supervised(
    scripted: tuple[Script, Launcher], pairs: int, workers: int, log: Any = None
) -> AsyncIterator[tuple[Supervisor, Segment, list[RingBroken | ControlCommand]]]:
    script, launcher = scripted
    segment = Segment.create(script.device, pairs)
    taps = [os.eventfd(0) for _ in range(pairs)]
    reports: list[RingBroken | ControlCommand] = []
    supervisor = Supervisor(
        Desired(taps), Surroundings(segment, launcher, log or get_log(), (), reports.append, QUICK)
    )
    try:
        await supervisor.start(workers)
        yield supervisor, segment, reports
    finally:
        await supervisor.stop()
        segment.unlink()
        for fd in taps:
            os.close(fd)


def _ring(number: int, base: int | None = None, *, enabled: bool = True) -> RingSetting:
    return RingSetting(number, 64, (0, 4096, 8192), 0, enabled, (None, None, None), base)


def test_a_worker_answers_in_turn_and_leaves_when_asked(scripted: tuple[Script, Launcher]) -> None:
    async def run() -> None:
        async with _worker(*scripted) as (worker, endings):
            assert await asyncio.gather(*(worker.request(AttachPair(0)) for _ in range(5))) == [0] * 5
            assert await worker.stop() == "Shutdown"
            assert worker.ending == Ending(RestartReason.EXITED, "status 0")
            assert endings == []

    asyncio.run(run())


def test_a_refusal_is_an_error_and_the_worker_goes_on(scripted: tuple[Script, Launcher]) -> None:
    scripted[0].add("0 AttachPair refuse")

    async def run() -> None:
        async with _worker(*scripted) as (worker, _):
            with pytest.raises(WorkerRefusedError, match="the script says no"):
                await worker.request(AttachPair(0))
            assert await worker.request(AttachPair(0)) == 0

    asyncio.run(run())


REFUSED = "system call openat, which it has not declared, at mpnet.workers.rings:1"


@pytest.mark.parametrize(
    ("action", "ending"),
    [
        ("die", Ending(RestartReason.KILLED, "SIGKILL")),
        ("exit", Ending(RestartReason.EXITED, "status 3")),
        ("forbidden", Ending(RestartReason.FORBIDDEN, REFUSED)),
        ("sigsys", Ending(RestartReason.FORBIDDEN, "SIGSYS")),
    ],
)
def test_an_end_is_told_with_its_reason(scripted: tuple[Script, Launcher], action: str, ending: Ending) -> None:
    scripted[0].add(f"0 AttachPair {action}")

    async def run() -> None:
        async with _worker(*scripted) as (worker, endings):
            with pytest.raises(WorkerLostError, match="has ended"):
                await worker.request(AttachPair(0))
            await eventually(lambda: endings == [ending], "the end is told")
            with pytest.raises(WorkerLostError):
                await worker.request(AttachPair(0))

    asyncio.run(run())


def test_what_workers_keep_of_their_rights_is_logged_once(scripted: tuple[Script, Launcher]) -> None:
    for slot in range(2):
        scripted[0].add(f"{slot} AttachPair unisolated")

    async def run() -> None:
        log = Mock()
        async with _supervised(scripted, 2, 2, log) as (supervisor, _, _):
            workers = supervisor.workers.values()
            await eventually(lambda: all(worker.unisolated for worker in workers), "both have told")
            assert [worker.unisolated for worker in workers] == [{"landlock": "this kernel has no Landlock"}] * 2
        told = [call for call in log.warning.call_args_list if call.args == ("workers are not fully isolated",)]
        assert [call.kwargs for call in told] == [{"landlock": "this kernel has no Landlock"}]

    asyncio.run(run())


def test_a_worker_that_does_not_answer_is_killed_as_hung(scripted: tuple[Script, Launcher]) -> None:
    scripted[0].add("0 SetMemory hang")

    async def run() -> None:
        async with _worker(*scripted) as (worker, endings):
            await worker.request(AttachPair(0))
            worker._limits = HASTY
            with pytest.raises(WorkerLostError, match="did not answer SetMemory"):
                await worker.request(SetMemory([]))
            await eventually(lambda: endings, "the end is told")
            assert endings[0].reason == RestartReason.HUNG

    asyncio.run(run())


def test_an_answer_nobody_waits_for_is_not_taken_for_the_next_one(scripted: tuple[Script, Launcher]) -> None:
    scripted[0].add("0 SetMemory refuse")

    async def run() -> None:
        async with _worker(*scripted) as (worker, _):
            abandoned = asyncio.create_task(worker.request(SetMemory([])))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            abandoned.cancel()
            assert await worker.request(AttachPair(0)) == 0
            assert [told["type"] for told in scripted[0].told()] == ["SetMemory", "AttachPair"]

    asyncio.run(run())


def test_the_ladder_ends_a_worker_that_ignores_sigterm(scripted: tuple[Script, Launcher]) -> None:
    scripted[0].add("0 AttachPair deaf", "0 Shutdown hang")

    async def run() -> None:
        async with _worker(*scripted) as (worker, endings):
            await worker.request(AttachPair(0))
            worker._limits = HASTY
            assert await worker.stop() == "SIGKILL"
            assert not psutil.pid_exists(worker.pid)
            assert endings == []

    asyncio.run(run())


def test_workers_share_the_pairs(scripted: tuple[Script, Launcher]) -> None:
    async def run() -> None:
        async with _supervised(scripted, 4, 2) as (supervisor, segment, _):
            assert supervisor.owner == [0, 1, 0, 1]
            assert segment.header.workers == 2
            served = {slot: [told["pair"] for told in scripted[0].told("AttachPair", slot)] for slot in (0, 1)}
            assert served == {0: [0, 2], 1: [1, 3]}
            assert all(told["fds"] == 1 for told in scripted[0].told("AttachPair"))

    asyncio.run(run())


def test_a_replacement_is_told_everything_and_goes_on_where_the_ring_was(
    scripted: tuple[Script, Launcher],
) -> None:
    async def run() -> None:
        async with _supervised(scripted, 2, 2) as (supervisor, segment, _):
            memory = os.memfd_create("guest")
            await supervisor.set_memory((MemoryRegion(0, 4096, 0, 0, memory),))
            await supervisor.set_ring(_ring(2, base=7))
            first = supervisor.workers[1].pid
            os.kill(first, signal.SIGSEGV)
            await eventually(
                lambda: 1 in supervisor.workers and supervisor.workers[1].pid != first, "a replacement"
            )
            await eventually(lambda: len(scripted[0].told("SetRing", 1)) == 2, "the ring is set again")
            new = [told for told in scripted[0].told(slot=1) if told["pid"] != first]
            assert [told["type"] for told in new] == ["SetMemory", "AttachPair", "SetRing"]
            assert (new[0]["fds"], new[2]["base"]) == (1, None)
            assert list(segment.workers[1].restarts) == [0, 1, 0, 0]
            assert await supervisor.stop_ring(2) == 7
            os.close(memory)

    asyncio.run(run())


def test_a_worker_that_dies_before_it_took_a_ring_leaves_its_base_to_the_next(
    scripted: tuple[Script, Launcher],
) -> None:
    scripted[0].add("0 SetRing die")

    async def run() -> None:
        async with _supervised(scripted, 1, 1) as (supervisor, _, _):
            await supervisor.set_ring(_ring(0, base=42))
            await eventually(lambda: len(scripted[0].told("SetRing")) == 2, "the ring is set again")
            assert [told["base"] for told in scripted[0].told("SetRing")] == [42, 42]
            assert await supervisor.stop_ring(0) == 42

    asyncio.run(run())


def test_a_ring_whose_worker_is_gone_stops_where_the_segment_says(scripted: tuple[Script, Launcher]) -> None:
    scripted[0].add("0 StopRing die")

    async def run() -> None:
        async with _supervised(scripted, 1, 1) as (supervisor, segment, _):
            await supervisor.set_ring(_ring(1, base=5))
            segment.rings[1].place = 0x1FFFE
            assert await supervisor.stop_ring(1) == 0xFFFE
            assert segment.rings[1].state == 0
            assert supervisor.desired.rings == {}

    asyncio.run(run())


def test_memory_a_worker_cannot_map_is_mapped_by_none(scripted: tuple[Script, Launcher]) -> None:
    async def run() -> None:
        async with _supervised(scripted, 2, 2) as (supervisor, _, _):
            scripted[0].add("1 SetMemory refuse")
            memory = os.memfd_create("guest")
            with pytest.raises(WorkerRefusedError):
                await supervisor.set_memory((MemoryRegion(0, 4096, 0, 0, memory),))
            assert supervisor.desired.regions == ()
            for slot in (0, 1):
                assert [len(told["regions"]) for told in scripted[0].told("SetMemory", slot)] == [0, 1, 0]
            os.close(memory)

    asyncio.run(run())


def test_a_refused_ring_is_as_it_was(scripted: tuple[Script, Launcher]) -> None:
    async def run() -> None:
        async with _supervised(scripted, 1, 1) as (supervisor, _, _):
            scripted[0].add("0 SetRing refuse")
            with pytest.raises(WorkerRefusedError):
                await supervisor.set_ring(_ring(0, base=0))
            assert supervisor.desired.rings == {}
            await supervisor.set_ring(_ring(0, base=0))
            scripted[0].add("0 SetRing refuse")
            with pytest.raises(WorkerRefusedError):
                await supervisor.set_ring(_ring(0, enabled=False))
            assert supervisor.desired.rings[0].enabled

    asyncio.run(run())


@pytest.mark.parametrize(("before", "after"), [(4, 1), (1, 4), (2, 3), (3, 2)])
def test_scaling_detaches_a_pair_before_it_attaches_it_elsewhere(
    scripted: tuple[Script, Launcher], before: int, after: int
) -> None:
    async def run() -> None:
        async with _supervised(scripted, 4, before) as (supervisor, segment, _):
            for number in range(9):
                await supervisor.set_ring(_ring(number, base=number))
            seen = len(scripted[0].told())
            await supervisor.scale(after)
            assert (supervisor.owner, segment.header.workers) == ([pair % after for pair in range(4)], after)
            assert sorted(supervisor.workers) == list(range(after))
            told = scripted[0].told()[seen:]
            holders = {pair: pair % before for pair in range(4)}
            for line in told:
                if line["type"] == "DetachPair":
                    assert holders.pop(line["pair"]) == line["slot"]
                elif line["type"] == "AttachPair":
                    assert line["pair"] not in holders
                    holders[line["pair"]] = line["slot"]
            assert holders == {pair: pair % after for pair in range(4)}
            rings = [line for line in told if line["type"] == "SetRing"]
            moved = [pair for pair in range(4) if pair % before != pair % after]
            assert sorted(line["index"] for line in rings) == sorted(r for p in moved for r in (2 * p, 2 * p + 1))
            assert all(line["base"] is None for line in rings)

    asyncio.run(run())


def test_scaling_survives_a_worker_that_dies_over_it(scripted: tuple[Script, Launcher]) -> None:
    async def run() -> None:
        async with _supervised(scripted, 2, 2) as (supervisor, _, _):
            await supervisor.set_ring(_ring(2, base=3))
            scripted[0].add("1 DetachPair die", "0 SetRing die")
            await supervisor.scale(1)
            await eventually(
                lambda: [t["index"] for t in scripted[0].told("SetRing", 0)] == [2, 2],
                "the pair is served by worker 0",
            )
            assert supervisor.owner == [0, 0]
            assert sorted(supervisor.workers) == [0]

    asyncio.run(run())


@pytest.mark.parametrize("workers", [0, 3, -1])
def test_a_number_of_workers_out_of_range_is_refused(scripted: tuple[Script, Launcher], workers: int) -> None:
    async def run() -> None:
        async with _supervised(scripted, 2, 1) as (supervisor, _, _):
            with pytest.raises(MpnetError, match=f"{workers} workers were asked for, expected 1 to 2"):
                await supervisor.scale(workers)

    asyncio.run(run())


def test_a_worker_that_cannot_start_stops_the_others(scripted: tuple[Script, Launcher]) -> None:
    scripted[0].add("1 AttachPair exit")

    async def run() -> None:
        with pytest.raises(WorkerLostError, match=r"worker 1 of device .* ended at its start: status 3"):
            async with _supervised(scripted, 3, 3):
                raise AssertionError("it started")
        pids = {told["pid"] for told in scripted[0].told()}
        assert len(pids) == 3
        assert not any(psutil.pid_exists(pid) for pid in pids)

    asyncio.run(run())


def test_a_crash_loop_is_counted_and_ended_by_stop(scripted: tuple[Script, Launcher]) -> None:
    async def run() -> None:
        async with _supervised(scripted, 1, 1) as (supervisor, segment, _):
            scripted[0].add(*["0 AttachPair exit"] * 100)
            os.kill(supervisor.workers[0].pid, signal.SIGKILL)
            restarts = segment.workers[0].restarts
            await eventually(lambda: restarts[RestartReason.EXITED] >= 3, "three replacements died")
            assert restarts[RestartReason.KILLED] == 1

    asyncio.run(run())


def test_a_replacement_that_comes_up_while_all_are_stopped_is_given_nothing_to_serve(
    scripted: tuple[Script, Launcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Worker.start
    started: list[int] = []

    async def run() -> None:
        async with _supervised(scripted, 1, 1) as (supervisor, _, _reports):
            stopping: list[asyncio.Task[None]] = []

            async def start_late(self: Worker, cpu: int | None = None) -> None:
                await start(self, cpu)
                started.append(self.pid)
                stopping.append(asyncio.create_task(supervisor.stop()))
                await asyncio.sleep(0.01)  # stop() has dismissed whom it knew

            monkeypatch.setattr(Worker, "start", start_late)
            os.kill(supervisor.workers[0].pid, signal.SIGKILL)
            await eventually(lambda: stopping and stopping[0].done(), "it is stopped")
            assert supervisor.workers == {}

    asyncio.run(run())
    assert [told["type"] for told in scripted[0].told() if told["pid"] == started[0]] == ["Shutdown"]


def test_a_worker_whose_heartbeat_stops_is_replaced(scripted: tuple[Script, Launcher]) -> None:
    async def run() -> None:
        async with _supervised(scripted, 1, 1) as (supervisor, segment, _):
            pid = supervisor.workers[0].pid
            os.kill(pid, signal.SIGSTOP)
            supervisor.workers[0]._limits = HASTY
            await eventually(lambda: segment.workers[0].restarts[RestartReason.HUNG] == 1, "it counts as hung")
            await eventually(
                lambda: 0 in supervisor.workers and supervisor.workers[0].pid != pid, "a replacement"
            )

    asyncio.run(run())


def test_what_a_worker_tells_unasked_is_passed_on(scripted: tuple[Script, Launcher]) -> None:
    scripted[0].add("0 SetRing break", "0 SetRing command:0400")

    async def run() -> None:
        async with _supervised(scripted, 1, 1) as (supervisor, _, reports):
            await supervisor.set_ring(_ring(1, base=0))
            await supervisor.set_ring(_ring(2, base=0))
            await eventually(lambda: len(reports) == 2, "both are reported")
            assert reports == [RingBroken(1, 1), ControlCommand(b"\x04\0")]
            await supervisor.complete_command(1)
            assert scripted[0].told("CompleteCommand")[0]["ack"] == 1

    asyncio.run(run())


class _Compiler:
    """Compiles nothing, when it is told to."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    def is_done(self) -> bool:
        return False

    async def compile(self, _told: Told) -> bool:
        await self.go_on.wait()
        return True


@asynccontextmanager
async def _improvable(script: Script, pairs: int) -> AsyncIterator[tuple[Supervisor, Launcher, _Compiler]]:
    compiler = _Compiler()
    launcher = Launcher("tests.fake_worker:run", (), compiler, "")
    try:
        async with _supervised((script, launcher), pairs, pairs) as (supervisor, _, _):
            yield supervisor, launcher, compiler
    finally:
        launcher.close()


def test_workers_are_replaced_once_there_is_better_code(scripted: tuple[Script, Launcher]) -> None:
    script, _ = scripted

    async def run() -> None:
        async with _improvable(script, 2) as (supervisor, _, compiler):
            for number in range(4):
                await supervisor.set_ring(_ring(number, 7))
            before = {slot: worker.pid for slot, worker in supervisor.workers.items()}
            compiler.go_on.set()
            await eventually(lambda: _all_compiled(supervisor), "compiled workers")
            await supervisor.set_ring(_ring(3, enabled=False))  # which waits for the last replacement
            after = {slot: worker.pid for slot, worker in supervisor.workers.items()}
            assert before.keys() == after.keys()
            assert not set(before.values()) & set(after.values())
            for slot in range(2):
                told = [line for line in script.told(slot=slot) if line["type"] != "SetMemory"]
                old = [line["type"] for line in told if line["pid"] == before[slot]]
                new = [line for line in told if line["pid"] == after[slot]]
                assert old[-2:] == ["DetachPair", "Shutdown"]
                rings = [line for line in new if line["type"] == "SetRing" and line["enabled"]]
                assert [line["index"] for line in rings] == [2 * slot, 2 * slot + 1]
                assert [line["base"] for line in rings] == [None, None]  # it goes on where the other was
                # The old one has let go before the new one takes over, and nothing comes in between.
                types = [(line["pid"] == after[slot], line["type"]) for line in told]
                assert types[types.index((False, "DetachPair")) + 1] == (True, "AttachPair")

    asyncio.run(run())


def _all_compiled(supervisor: Supervisor) -> bool:
    return all(worker.code is Code.COMPILED for worker in supervisor.workers.values())


@pytest.mark.parametrize("action", ["die", "refuse"])
def test_a_better_worker_that_fails_at_its_start_takes_nothing_away(
    scripted: tuple[Script, Launcher], action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, _ = scripted
    monkeypatch.setattr(supervision, "IMPROVE_SECONDS", 0.0)

    async def run() -> None:
        async with _improvable(script, 1) as (supervisor, _, compiler):
            await supervisor.set_ring(_ring(0, 7))
            old = supervisor.workers[0]
            script.add(f"0 SetMemory {action}")
            compiler.go_on.set()
            await eventually(lambda: len(script.told("SetMemory")) > 1, "an attempt")
            assert "DetachPair" not in [line["type"] for line in script.told() if line["pid"] == old.pid][:-2]
            await eventually(lambda: _all_compiled(supervisor), "a compiled worker at the next attempt")
            assert await supervisor.stop_ring(0) == 7

    asyncio.run(run())


def test_one_that_dies_while_it_lets_go_is_replaced_all_the_same(scripted: tuple[Script, Launcher]) -> None:
    script, _ = scripted

    async def run() -> None:
        async with _improvable(script, 1) as (supervisor, _, compiler):
            await supervisor.set_ring(_ring(0, 7))
            script.add("0 DetachPair die")
            compiler.go_on.set()
            await eventually(lambda: _all_compiled(supervisor), "a compiled worker")
            assert await supervisor.stop_ring(0) == 7

    asyncio.run(run())


def test_what_a_worker_reports_without_end_holds_nobody_up(
    scripted: tuple[Script, Launcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[object] = []

    async def run() -> None:
        listener = Listener(lambda _, report: reports.append(report), lambda *_: None)
        worker = Worker(scripted[0].device, 0, scripted[1], listener, QUICK)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(0)
        worker._channel, sender = Channel(ours, Report), Channel(theirs, Report)
        for _ in range(100):
            sender.send(RingBroken(0, 1))
        asyncio.get_running_loop().add_reader(ours, worker._readable)
        most, before = 0, 0
        while before < 100:
            await asyncio.sleep(0)
            most, before = max(most, len(reports) - before), len(reports)
        assert most == 16
        listener.budget.spend(2.0)
        for _ in range(100):
            sender.send(RingBroken(0, 1))
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(reports) == 116
        object.__setattr__(listener, "budget", Budget())
        worker._read_on()
        await eventually(lambda: len(reports) == 200, "it is listened to again")
        worker._forget_channel()
        theirs.close()

    asyncio.run(run())


def test_a_worker_that_reports_what_cannot_be_is_given_up(
    scripted: tuple[Script, Launcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise IndexError("there is no ring 4711")

    async def run() -> None:
        script, launcher = scripted
        worker = Worker(script.device, 0, launcher, Listener(fail, lambda *_: None), QUICK)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(0)
        worker._channel = Channel(ours, Report)
        Channel(theirs, Report).send(RingBroken(4711, 1))
        worker._readable()
        assert not worker.alive
        assert "there is no ring 4711" in worker._fault
        worker._forget_channel()
        theirs.close()

    asyncio.run(run())


def test_the_workers_of_a_device_have_one_share_of_the_event_loop(scripted: tuple[Script, Launcher]) -> None:
    async def run() -> None:
        async with _supervised(scripted, 2, 2) as (supervisor, *_):
            supervisor.workers[0]._listener.budget.spend(2.0)
            assert all(worker._listener.budget.debt for worker in supervisor.workers.values())

    asyncio.run(run())


def test_what_a_worker_calls_its_rights_and_its_calls_fits_into_a_line(scripted: tuple[Script, Launcher]) -> None:
    seen: list[object] = []
    listener = Listener(lambda _, report: seen.append(report), lambda *_: None)
    worker = Worker(scripted[0].device, 0, scripted[1], listener, QUICK)
    worker._take(Isolated({"root\x1b[2J\n": "\x1b]0;\x07" + "x" * 1000}))
    ((name, why),) = worker.unisolated.items() if worker.unisolated else ()
    assert seen == [Isolated({name: why})]
    assert (name + why).isprintable()
    assert len(why) < 1000
    worker._take(Forbidden("\x1b[2J", "\n\n"))
    assert worker._forbidden.isprintable()
    with pytest.raises(ValueError, match="100 stages"):
        worker._take(Isolated({str(number): "" for number in range(100)}))


@pytest.mark.parametrize("message", [b"\xc1", msgspec.msgpack.encode(RingBroken(0, 1))])
def test_a_worker_that_sends_descriptors_is_given_up_and_nobody_waits_for_their_close(
    scripted: tuple[Script, Launcher], message: bytes
) -> None:
    """A front-end had chosen them, over a Unix socket that it gave for calls: here a close that waits an hour."""

    async def run() -> None:
        worker = Worker(scripted[0].device, 0, scripted[1], Listener(lambda *_: None, lambda *_: None), QUICK)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(0)
        worker._channel = Channel(ours, Report, descriptors.close_aside)
        with lingering() as (fd, reader), lingering() as (queued, last):
            for each in fd, queued:
                socket.send_fds(theirs, [message], [each])
                os.close(each)
            worker._readable()
            assert not worker.alive
            worker._forget_channel()
            reader.close()
            last.close()
        theirs.close()

    with network_namespace():
        asyncio.run(asyncio.wait_for(run(), 60))


def test_descriptors_that_come_with_a_message_that_is_none_are_closed() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(ours, Report)
    read_end, write_end = os.pipe()
    for nonsense in (b"\xc1", b"\xa5\xff\xff\xff\xff\xff", b"\x81\xa4type\xa4None"):
        socket.send_fds(theirs, [nonsense], [write_end])
        with pytest.raises((msgpack.UnpackException, msgspec.ValidationError, ValueError)):
            channel.receive()
    os.close(write_end)
    assert os.read(read_end, 1) == b""  # nobody has the other end any more
    os.close(read_end)
    ours.close()
    theirs.close()
