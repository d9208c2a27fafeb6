"""What a TAP refuses, or fails to give: the rest of the frames pass all the same.

System calls are replaced, which compiled code does not notice: runs interpreted, by ``test_interpreted.py``.
"""

import errno
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from mpnet.jit import syscalls, uring
from mpnet.jit.compile import JIT
from mpnet.jit.memory import load_i64, load_u8
from mpnet.jit.uring_setup import WRITEV
from mpnet.segment.layout import DropReason, Engine
from mpnet.workers import receive, write
from tests.quirky_stream import Flow
from tests.segmenter import GSO_UDP_L4
from tests.test_bounds import BOTH, NO_CSUM, Device
from tests.test_datapath import deliver, frame
from tests.test_stepping import on_the_tap
from tests.worker_harness import FEATURES

__test__ = not JIT


def refuse_udp(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, refuses: Callable[[int], bool]
) -> Callable[[], int]:
    """Have superframes of UDP refused by their number; how many there were."""
    numbers = itertools.count()
    seen: list[int] = []

    def is_refused(iovecs: int) -> bool:
        if load_u8(load_i64(iovecs) + 1) != GSO_UDP_L4:
            return False
        seen.append(next(numbers))
        return refuses(seen[-1])

    def writev(fd: int, iovecs: int, count: int) -> int:
        return -errno.EINVAL if is_refused(iovecs) else syscalls.writev(fd, iovecs, count)

    def queue(state: Any, operation: int, file: int, address: int, count: int, tag: int) -> None:
        # More pieces than there may be are refused by the kernel itself.
        refused = operation == WRITEV and is_refused(address)
        uring.queue(state, operation, file, address, 1025 if refused else count, tag)

    monkeypatch.setattr(write, "writev", writev)
    if engine == Engine.URING:
        monkeypatch.setattr(write, "queue", queue)
    return lambda: len(seen)


@pytest.mark.parametrize("engine", [Engine.RW, Engine.URING], ids=["rw", "uring"])
@pytest.mark.parametrize("refused", [[0], [1], [2], [0, 1], [1, 2], [1, 2, 3, 4]])
def test_a_superframe_that_is_refused_goes_frame_by_frame(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, refused: list[int]
) -> None:
    """Also by a kernel that has taken others: it may dislike only those with a shorter tail."""
    count = refuse_udp(monkeypatch, engine, lambda number: number in refused)
    flows = [Flow(number, tcp=number == 2, ipv6=False) for number in range(3)]
    # In each burst two superframes of each flow, all ended by a shorter frame.
    bursts = [[flow.frame(quirk) for quirk in ("", "", "odd") * 2 for flow in flows] for _ in range(3)]
    with Device(entries=64, engine=engine) as device:
        device.worker._writer.open()
        device.worker._writer.set_queue(0, int(device.ctx.rings[1].tap_fd))
        for burst in bursts:
            device.send(*burst)
        got = [each.data for each in on_the_tap(device)]
        device.worker._writer.close()
        shared = device.segment.rings[1]
        assert sum(shared.drops) == 0
    sent = [each.data for burst in bursts for each in burst]
    assert sorted(got) == sorted(sent)
    assert shared.packets == len(sent)
    for flow in range(3):
        mine = sent[flow::3]
        order = [mine.index(data) for data in got if data in mine]
        # What is queued behind a superframe has been written when that one is refused.
        assert order == sorted(order) or engine == Engine.URING
    # None is made in the bursts that follow.
    assert count() <= 4


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_frames_that_wait_are_not_overtaken_once_no_kind_is_coalesced(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(
        write,
        "writev",
        lambda fd, iovecs, count: (
            -errno.EINVAL if load_u8(load_i64(iovecs) + 1) else syscalls.writev(fd, iovecs, count)
        ),
    )
    first, other = Flow(1, tcp=kind == "tcp", ipv6=False), Flow(2, tcp=kind != "tcp", ipv6=False)
    waiting = [other.frame() for _ in range(4)]
    frames = [waiting[0], first.frame(), first.frame("odd"), waiting[1], waiting[2], first.frame(), waiting[3]]
    with Device(entries=16) as device:
        device.send(*frames)
        got = [each.data for each in on_the_tap(device)]
        assert sorted(got) == sorted(each.data for each in frames)
        assert [data for data in got if data in {each.data for each in waiting}] == [
            each.data for each in waiting
        ]


def failing_reads(monkeypatch: pytest.MonkeyPatch, answers: dict[int, int]) -> None:
    """Have the reads of the TAP of some numbers fail; with EINVAL the frame is gone, as in the kernel."""
    numbers = itertools.count()

    def failing(name: str) -> Callable[[int, int, int], int]:
        def call(fd: int, address: int, size: int) -> int:
            length = int(getattr(syscalls, name)(fd, address, size)) if answers.get(now := next(numbers)) in {
                None, -errno.EINVAL
            } else 0  # fmt: skip
            return answers.get(now, length)

        return call

    for name in ("read", "readv"):
        monkeypatch.setattr(receive, name, failing(name))


@BOTH
@pytest.mark.parametrize("error", [errno.EINVAL, errno.EINTR, errno.EIO, errno.ENOMEM])
@pytest.mark.parametrize("number", [0, 1, 3])
def test_the_frames_behind_a_read_that_fails_do_not_wait(
    monkeypatch: pytest.MonkeyPatch, features: int, error: int, number: int
) -> None:
    with Device(entries=16, features=features) as device:
        device.receiver.post(200, 12)
        device.serve()
        failing_reads(monkeypatch, {number: -error})
        sent = [frame(60, seed).data for seed in range(6)]
        for data in sent:
            deliver(device, data)
        device.serve()
        if error == errno.EINVAL:
            del sent[number]
        assert [got.data for got in device.receiver.receive(len(sent), 0)] == sent
        assert device.segment.rings[0].drops[DropReason.TAP_ERROR] == (error != errno.EINTR)


@pytest.mark.parametrize("features", [FEATURES, NO_CSUM], ids=["read in place", "read into the spill"])
@pytest.mark.parametrize("error", [errno.EIO, errno.EBADFD, errno.EAGAIN])
def test_a_tap_that_fails_for_ever_is_left_until_it_tells_of_a_frame(
    monkeypatch: pytest.MonkeyPatch, features: int, error: int
) -> None:
    with Device(entries=16, features=features) as device:
        device.receiver.post(200, 12)
        device.serve()
        with monkeypatch.context() as broken:
            failing_reads(broken, dict.fromkeys(range(100_000), -error))
            deliver(device, frame(60).data)
            device.serve()
            assert not device.ctx.rings[0].ready
            drops = device.segment.rings[0].drops[DropReason.TAP_ERROR]
            assert drops == 0 if error != errno.EIO else 0 < drops <= 256
        deliver(device, frame(61).data)
        device.serve()
        assert [got.data for got in device.receiver.receive(2, 0)] == [frame(60).data, frame(61).data]
