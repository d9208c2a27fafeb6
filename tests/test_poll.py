"""Adaptive polling: how long a worker goes on looking, by a clock that the test sets; then on rings."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mpnet.guest.control_queue import ControlQueue
from mpnet.guest.frame import Frame, NetHeader
from mpnet.guest.queue import Queue
from mpnet.rpc.worker import CompleteCommand, ControlCommand, Done, SetPolling
from mpnet.segment.segment import Segment
from mpnet.virtio.features import Feature, mask
from mpnet.workers.poll import CROWDED_NS, CROWDED_TIMES, LEAST_WINDOW_NS, note_absence, offer_processor, pace
from mpnet.workers.state import Context, Scratch, make_context
from tests.real.running import wait_until
from tests.worker_harness import FEATURES, HEADER_BYTES, Harness

BUDGET_NS = 50_000
SECOND_NS = 1_000_000_000


@pytest.fixture
def ctx() -> Iterator[Context]:
    """A worker that serves pair 0, has polled for nothing yet and may for 50 µs."""
    segment, scratch = Segment.create(f"test-{uuid.uuid4().hex[:12]}", 1), Scratch()
    context = make_context(segment.rings, segment.workers[:1], scratch)
    context.worker[0].poll_ns, context.worker[0].pairs = BUDGET_NS, 1
    yield context
    del context
    segment.unlink()


def arrive(ctx: Context, times: int, apart: int, start: int = SECOND_NS) -> int:
    """Frames that come so far apart to a worker that has slept meanwhile; the time of the last."""
    for number in range(times):
        ctx.worker[0].polling = 0
        pace(ctx, 1, start + number * apart)
    return start + (times - 1) * apart


def test_a_window_grows_to_the_budget_while_work_comes_within_it(ctx: Context) -> None:
    windows = []
    for times in range(1, 6):
        ctx.worker[0].window_ns = ctx.worker[0].worked_ns = 0
        arrive(ctx, times, BUDGET_NS)
        windows.append(int(ctx.worker[0].window_ns))
    assert windows == [0, LEAST_WINDOW_NS, 2 * LEAST_WINDOW_NS, 4 * LEAST_WINDOW_NS, BUDGET_NS]


def test_an_idle_guest_costs_no_poll(ctx: Context) -> None:
    now = arrive(ctx, 10, BUDGET_NS)
    assert ctx.worker[0].window_ns == BUDGET_NS
    arrive(ctx, 4, SECOND_NS, now + SECOND_NS)
    assert ctx.worker[0].window_ns == ctx.worker[0].polling == 0
    assert not pace(ctx, 0, now + 10 * SECOND_NS)


def test_a_worker_without_a_budget_never_polls(ctx: Context) -> None:
    ctx.worker[0].poll_ns = 0
    arrive(ctx, 10, 1)
    assert ctx.worker[0].polling == 0


def test_a_poll_ends_with_its_window_and_leaves_every_ring_to_be_looked_at(ctx: Context) -> None:
    now = arrive(ctx, 10, BUDGET_NS)
    assert pace(ctx, 0, now + BUDGET_NS - 1)
    ctx.rings.ready = 0
    pace(ctx, 0, now + BUDGET_NS)
    assert ctx.worker[0].polling == 0
    assert list(ctx.rings.ready[:2]) == [1, 1]
    assert not pace(ctx, 0, now + BUDGET_NS + 1)
    stats = ctx.stats[0]
    assert (stats.poll_hits, stats.poll_misses, stats.poll_ns) == (0, 1, BUDGET_NS)


def test_work_that_is_found_begins_the_window_anew(ctx: Context) -> None:
    now = arrive(ctx, 10, BUDGET_NS)
    for _ in range(3):
        assert pace(ctx, 0, now + BUDGET_NS - 1)
        now += BUDGET_NS - 1
        assert pace(ctx, 1, now)
    stats = ctx.stats[0]
    assert (stats.poll_hits, stats.poll_misses, stats.poll_ns) == (3, 0, 3 * (BUDGET_NS - 1))


def test_a_moment_that_others_have_the_processor_is_no_time_polled_and_ends_no_poll(ctx: Context) -> None:
    now = arrive(ctx, 10, BUDGET_NS)
    pace(ctx, 0, now + 1000)
    note_absence(ctx, now + 1000, now + 6000)
    pace(ctx, 0, now + 7000)
    assert ctx.worker[0].polling == 1
    assert ctx.stats[0].poll_ns == 2000


def test_where_others_need_the_processor_a_poll_ends_and_none_begins_for_long(ctx: Context) -> None:
    now = arrive(ctx, 10, BUDGET_NS)
    back = now + CROWDED_NS + 1
    ctx.rings.ready = 0
    note_absence(ctx, now, back)
    assert ctx.worker[0].polling == 0
    assert list(ctx.rings.ready[:2]) == [1, 1]
    later = back + CROWDED_TIMES * (CROWDED_NS + 1)
    for time in (back + 1, later - BUDGET_NS, later - 1):
        pace(ctx, 1, time)
        assert ctx.worker[0].polling == 0
    pace(ctx, 1, later)
    assert ctx.worker[0].polling == 1


def test_the_processor_is_offered_now_and_then_and_only_while_the_worker_polls(ctx: Context) -> None:
    now = arrive(ctx, 10, BUDGET_NS)
    offers = 0
    for _ in range(256):
        pace(ctx, 0, now)
        offers += offer_processor(ctx, now) != now
        ctx.worker[0].polling = 1  # the clock of this test is not the one that an offer is timed by
    assert offers == 4
    ctx.worker[0].polling = 0
    for _ in range(256):
        ctx.worker[0].idle_rounds += 1
        assert offer_processor(ctx, now) == now


@pytest.mark.parametrize("extra", [0, mask(Feature.RING_PACKED)], ids=["split", "packed"])
def test_a_polling_worker_moves_frames_and_hears_messages(extra: int) -> None:
    with Harness(features=FEATURES | extra) as harness:
        assert harness.ask(SetPolling(10_000)) == Done()
        harness.start()
        harness.receiver.post(1526, 32)
        sent = [Frame(bytes([number]) * 60) for number in range(20)]
        for frame in sent:
            harness.sender.send([frame])
            harness.tap.send(NetHeader().pack(HEADER_BYTES) + frame.data)
            assert harness.tap.recv(1 << 16)[HEADER_BYTES:] == frame.data
        got = harness.receiver.receive(len(sent), 10)
        assert [frame.data for frame in got] == [frame.data for frame in sent]
        # Answered while it polls, and the rings go on without.
        assert harness.ask(SetPolling(0)) == Done()
        harness.sender.send(sent[:1])
        assert harness.tap.recv(1 << 16)[HEADER_BYTES:] == sent[0].data


def test_a_worker_that_has_polled_is_woken_by_frames() -> None:
    with Harness() as harness:
        harness.start()
        harness.receiver.post(1526, 32)
        stats = harness.worker.ctx.stats[0]
        for number in range(3):
            assert harness.ask(SetPolling(10_000)) == Done()
            polled = int(stats.poll_hits)
            sent = [Frame(bytes([number]) * 60) for _ in range(4)]
            while stats.poll_hits == polled:  # a first one within the budget of the last begins a poll
                for frame in sent:
                    harness.tap.send(NetHeader().pack(HEADER_BYTES) + frame.data)
                assert [frame.data for frame in harness.receiver.receive(4)] == [frame.data for frame in sent]
            harness.ask(SetPolling(0))
            wait_until(lambda: not harness.worker.ctx.worker[0].polling, "the worker polls no more")
            slept = int(stats.wakeups)
            harness.tap.send(NetHeader().pack(HEADER_BYTES) + sent[0].data)
            assert harness.receiver.receive(1)[0].data == sent[0].data
            wait_until(lambda slept=slept: stats.wakeups > slept, "an event has woken the worker")


def test_a_worker_that_polls_hears_of_every_command() -> None:
    """It does not look at the control queue in between: it must ask for a kick there all the same."""
    with Harness() as harness, ThreadPoolExecutor(1) as driver:
        queue = Queue(harness.memory, 2, 16, features=FEATURES)
        control = ControlQueue(queue)
        own = harness.worker.ctx.worker[0]
        own.window_ns, own.polling = 1 << 60, 1
        harness.start()
        harness.set_ring(queue)
        for _ in range(3):
            answer = driver.submit(control.command, 1, 0, b"\1")
            assert isinstance(harness.next_report(), ControlCommand)
            harness.ask(CompleteCommand(0))
            assert answer.result() == 0
        queue.close()
