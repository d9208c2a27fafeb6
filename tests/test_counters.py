"""Each counter of the data path, exact: what it counts, and in which bucket.

Runs interpreted alone, by ``test_interpreted.py``.
"""

import errno
from bisect import bisect_left

import pytest

from mpnet.guest.frame import Frame, NetHeader
from mpnet.jit.compile import JIT
from mpnet.segment.layout import BURST_BUCKETS, ROUND_BUCKETS_NS, DropReason
from mpnet.virtio.features import Feature, mask
from mpnet.workers.statistics import count_burst, count_round
from mpnet.workers.write import _drop_reason
from tests.superframes import Kind, superframe
from tests.test_bounds import BOTH, Device
from tests.test_datapath import deliver, frame
from tests.test_segmentation import put_on_tap
from tests.worker_harness import FEATURES

__test__ = not JIT

TSO = FEATURES | mask(Feature.GUEST_TSO4)


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 256])
def test_a_burst_is_counted_by_its_frames(frames: int) -> None:
    with Device() as device:
        count_burst(device.ctx, 1, frames)
        stats = device.segment.workers[0]
        counted = [int(number == bisect_left(BURST_BUCKETS, frames)) for number in range(len(BURST_BUCKETS) + 1)]
        assert stats.bursts.tolist() == counted
        assert stats.burst_packets == frames
        first = int(stats.first_packet_ns)
        assert first > 0
        count_burst(device.ctx, 1, frames)
        assert (stats.burst_packets, stats.first_packet_ns) == (2 * frames, first)


@pytest.mark.parametrize("nanoseconds", [1, 2_000, 2_001, 5_000, 10_000_000, 10_000_001])
def test_a_round_is_counted_by_its_duration(nanoseconds: int) -> None:
    with Device() as device:
        count_round(device.ctx, nanoseconds)
        bucket = bisect_left(ROUND_BUCKETS_NS, nanoseconds)
        rounds = device.segment.workers[0].rounds.tolist()
        assert rounds == [int(number == bucket) for number in range(len(ROUND_BUCKETS_NS) + 1)]
        assert device.segment.workers[0].round_ns == nanoseconds


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errno.EINVAL, DropReason.BAD_HEADER),
        (errno.EIO, DropReason.TAP_DOWN),
        (errno.EBADFD, DropReason.TAP_DOWN),
        (errno.EFAULT, DropReason.BROKEN),
        (errno.ENOBUFS, DropReason.TAP_ERROR),
        (errno.EAGAIN, DropReason.TAP_ERROR),
    ],
)
def test_why_the_tap_refused_a_frame(error: int, reason: DropReason) -> None:
    with Device() as device:
        assert _drop_reason(device.ctx, -error) == reason
        assert device.ctx.worker[0].memory_lost == (error == errno.EFAULT)


def test_frames_that_are_to_be_segmented_later_are_counted_on_tx() -> None:
    with Device() as device:
        device.send(frame(60), Frame(frame(1000).data, NetHeader(flags=1, gso_type=1, gso_size=100)), frame(61))
        tx = device.segment.rings[1]
        assert (tx.packets, tx.gso_packets, tx.bytes) == (3, 1, 1121)


@pytest.mark.parametrize("room", [4000, 300], ids=["in place", "by the spill"])
def test_frames_that_are_to_be_segmented_later_are_counted_on_rx(room: int) -> None:
    with Device(entries=16, features=TSO) as device:
        device.receiver.post(room, 1)
        for number in range(2):
            put_on_tap(device, superframe(Kind(tcp=True, ipv6=False), 100, bytes(1000 + number)))
        deliver(device, frame(60).data)
        device.serve()
        device.receiver.post(room, 14)
        device.serve()
        rx = device.segment.rings[0]
        assert (rx.packets, rx.gso_packets, rx.segmented) == (3, 2, 0)


@BOTH
def test_buffers_that_the_driver_has_ready_are_counted(features: int) -> None:
    with Device(features=features) as device:
        for _ in range(5):
            device.post(200)
        deliver(device, frame(60).data)
        device.serve()
        assert device.segment.rings[0].packets == 1
        # Of a packed ring only those count that were looked at.
        assert device.segment.rings[0].available_entries == (1 if device.rx.packed else 4)


def test_the_worker_of_pair_0_serves_the_control_queue_too() -> None:
    with Device() as device:
        assert device.segment.rings.worker.tolist() == [1, 1, 1]
