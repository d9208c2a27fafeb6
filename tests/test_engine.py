"""How frames are written to the TAP: which way is chosen, and that both do the same, also when it fails."""

from collections.abc import Callable
from unittest.mock import Mock

import pytest

from mpnet.control import engine as control_engine
from mpnet.control.engine import choose_engine
from mpnet.errors import ConfigError
from mpnet.guest.frame import Frame
from mpnet.jit.uring_setup import why_absent
from mpnet.segment.layout import DropReason, Engine
from mpnet.virtio.features import Feature
from mpnet.workers.writer import Writer
from tests.worker_harness import FEATURES, HEADER_BYTES, Harness

needs_uring = pytest.mark.skipif(bool(why_absent()), reason=f"io_uring: {why_absent()}")
FORBIDDEN = "[Errno 1] Operation not permitted"


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_engine, "why_absent", lambda: FORBIDDEN)


def frames(count: int, size: int = 64) -> list[Frame]:
    return [Frame(number.to_bytes(4, "big") * (size // 4)) for number in range(count)]


def received(harness: Harness) -> list[bytes]:
    got = []
    harness.tap.setblocking(False)
    try:
        while True:
            got.append(harness.tap.recv(1 << 17)[HEADER_BYTES:])
    except BlockingIOError:
        return got


@pytest.mark.usefixtures("forbidden")
def test_where_io_uring_is_forbidden_writes_are_plain_and_the_log_says_why() -> None:
    log = Mock()
    assert choose_engine("auto", log) == Engine.RW
    assert log.info.call_args.kwargs["reason"] == FORBIDDEN


@pytest.mark.usefixtures("forbidden")
def test_io_uring_that_is_asked_for_and_forbidden_is_an_error_with_its_remedy() -> None:
    with pytest.raises(ConfigError, match=r"engine=uring cannot be had: .*not permitted.*io_uring_disabled"):
        choose_engine("uring", Mock())


@pytest.mark.usefixtures("forbidden")
def test_plain_writes_need_nothing() -> None:
    log = Mock()
    assert choose_engine("rw", log) == Engine.RW
    assert not log.info.called


@needs_uring
@pytest.mark.parametrize(("gains", "expected"), [(True, Engine.URING), (False, Engine.RW)])
def test_the_faster_way_is_used(monkeypatch: pytest.MonkeyPatch, gains: bool, expected: Engine) -> None:
    measured: Callable[[Writer], bool] = Writer._gains
    results = []
    monkeypatch.setattr(Writer, "_gains", lambda writer: [results.append(measured(writer)), gains][1])
    with Harness(engine=Engine.AUTO) as harness:
        harness.start()
        harness.sender.send(frames(3))
        assert received(harness) == [each.data for each in frames(3)]
        assert harness.segment.workers[0].engine == expected
    assert len(results) == 1


@needs_uring
@pytest.mark.parametrize("engine", [Engine.RW, Engine.URING])
@pytest.mark.parametrize("features", [FEATURES, FEATURES | 1 << Feature.RING_PACKED], ids=["split", "packed"])
def test_what_the_tap_refuses_is_counted_and_the_rest_is_in_order(engine: Engine, features: int) -> None:
    sent = frames(1000, 4096)
    with Harness(entries=1024, features=features, engine=engine) as harness:
        harness.start()
        # A socket takes a megabyte or so, and refuses more as a TAP does whose queue is full.
        harness.sender.send(sent)
        got = received(harness)
        shared = harness.segment.rings[1]
        assert shared.packets == len(got)
        assert shared.drops[DropReason.TAP_ERROR] == len(sent) - len(got) > 0
        assert got == [each.data for each in sent[: len(got)]]
        assert harness.segment.workers[0].engine == engine


@needs_uring
def test_a_ring_that_the_kernel_refuses_is_given_up_and_loses_nothing() -> None:
    sent = frames(300)
    with Harness(entries=512) as harness:
        harness.start()
        harness.sender.send(sent[:100])
        got = received(harness)
        harness.worker.ctx.uring[0].fd = 1 << 20
        harness.sender.send(sent[100:])
        got += received(harness)
        assert got == [each.data for each in sent]
        assert harness.segment.workers[0].engine == Engine.RW


@needs_uring
def test_a_queue_that_is_detached_is_let_go_of() -> None:
    with Harness() as harness:
        harness.start()
        harness.sender.send(frames(1))
        harness.stop_worker()
        harness._tap_queue.close()
        assert [len(harness.tap.recv(100)), len(harness.tap.recv(100))] == [HEADER_BYTES + 64, 0]
