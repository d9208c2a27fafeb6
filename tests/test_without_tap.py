"""The back-ends that have no TAP: ``null`` counts what it takes, ``echo`` sends every byte back."""

import os
import struct

import pytest

from mpnet.guest.chain import Layout
from mpnet.guest.frame import Frame, NetHeader
from mpnet.guest.virtqueue import add_one, notify
from mpnet.rpc.worker import RingBroken
from mpnet.segment.layout import DropReason, Fault
from mpnet.virtio.features import Feature, mask
from mpnet.virtio.split_ring import DESC_F_WRITE
from tests.test_datapath import LAYOUTS, PACKED, RINGS, frame
from tests.test_hostile_rings import PACKED_TX_FAULTS, TX_FAULTS, offer, reset
from tests.worker_harness import FEATURES, Harness

SIZES = (14, 60, 61, 1514, 9014)
BOTH = pytest.mark.parametrize("features", [FEATURES, PACKED], ids=["split", "packed"])


def post_frame(harness: Harness, data: bytes) -> None:
    """Send a frame without waiting for it to be taken."""
    contents = NetHeader().pack(12) + data
    address = harness.memory.allocate(len(contents))
    harness.memory.write(address, contents)
    add_one(harness.tx.virtqueue, address, len(contents), 0)
    notify(harness.tx.virtqueue)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize(("features", "entries"), RINGS.values(), ids=RINGS.keys())
def test_null_takes_and_counts_every_frame(layout: Layout, features: int, entries: int) -> None:
    with Harness(entries, features, backend="null") as harness:
        harness.start()
        harness.receiver.post(1526, 4)
        harness.sender.send([frame(size) for size in (*SIZES, 13, 90000)], layout)
        assert harness.receiver.receive(1, 0.05) == []
        tx = harness.segment.rings[1]
        assert (tx.packets, tx.bytes) == (len(SIZES), sum(SIZES))
        assert (tx.drops[DropReason.SHORT_CHAIN], tx.drops[DropReason.TOO_LONG]) == (1, 1)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("room", [64, 1526, 70000])
@pytest.mark.parametrize(("features", "entries"), RINGS.values(), ids=RINGS.keys())
def test_echo_is_byte_exact(layout: Layout, room: int, features: int, entries: int) -> None:
    sizes = [size for size in SIZES if size <= room * 16]
    with Harness(entries, features, backend="echo") as harness:
        harness.start()
        harness.receiver.post(room, min(entries, 48))
        harness.sender.send([frame(size, size) for size in sizes], layout)
        got = harness.receiver.receive(len(sizes))
        assert [f.data for f in got] == [frame(size, size).data for size in sizes]
        assert {(f.header.flags, f.header.gso_type) for f in got} == {(0, 0)}
        for ring in harness.segment.rings[:2]:
            assert (ring.packets, ring.bytes) == (len(sizes), sum(sizes))


@BOTH
def test_echo_waits_for_buffers_and_loses_nothing(features: int) -> None:
    with Harness(16, features, backend="echo") as harness:
        harness.start()
        data = [frame(1000, seed).data for seed in range(8)]
        harness.receiver.post(600, 1)  # too few for a frame
        for each in data:
            post_frame(harness, each)
        assert harness.receiver.receive(1, 0.05) == []
        harness.receiver.post(600, 10)
        assert [f.data for f in harness.receiver.receive(8)] == data


@BOTH
def test_echo_goes_on_in_another_worker(features: int) -> None:
    with Harness(16, features, backend="echo") as harness:
        harness.start()
        post_frame(harness, frame(100).data)
        harness.replace_worker()
        harness.receiver.post(600, 4)
        assert harness.receiver.receive()[0].data == frame(100).data


@BOTH
def test_what_no_buffer_can_hold_is_dropped_and_counted(features: int) -> None:
    with Harness(4, features, backend="echo") as harness:
        harness.start()
        harness.receiver.post(100, 4)
        harness.sender.send([frame(600), frame(60)])
        assert harness.receiver.receive()[0].data == frame(60).data
        assert harness.segment.rings[1].drops[DropReason.TOO_LONG] == 1


@BOTH
def test_without_mergeable_buffers_a_frame_takes_one(features: int) -> None:
    with Harness(16, features & ~mask(Feature.MRG_RXBUF), backend="echo") as harness:
        harness.start()
        harness.receiver.post(1526, 8)
        harness.sender.send([frame(2000), frame(1514)])
        got = harness.receiver.receive()[0]
        assert (got.data, got.header.num_buffers) == (frame(1514).data, 1)
        assert harness.segment.rings[1].drops[DropReason.TOO_LONG] == 1


def test_a_legacy_header_comes_back() -> None:
    with Harness(features=0, backend="echo") as harness:
        harness.start()
        harness.receiver.post(1524, 2)
        harness.sender.send([frame(99)])
        assert harness.receiver.receive()[0].data == frame(99).data


@pytest.mark.parametrize("header", [NetHeader(flags=1), NetHeader(gso_type=1)], ids=["checksum", "gso"])
def test_unfinished_frames_do_not_come_back(header: NetHeader) -> None:
    with Harness(backend="echo") as harness:
        harness.start()
        harness.receiver.post(1526, 8)
        harness.sender.send([Frame(frame(60).data, header), frame(61)])
        assert harness.receiver.receive()[0].data == frame(61).data
        assert harness.segment.rings[1].drops[DropReason.BAD_HEADER] == 1


@BOTH
def test_an_rx_ring_that_is_not_enabled_gets_no_echo(features: int) -> None:
    with Harness(16, features, backend="echo") as harness:
        harness.start()
        harness.receiver.post(1526, 8)
        harness.set_ring(harness.rx, None, enabled=False)
        harness.sender.send([frame(60)])
        harness.set_ring(harness.rx, None)
        harness.sender.send([frame(61)])
        assert harness.receiver.receive()[0].data == frame(61).data
        assert harness.segment.rings[1].drops[DropReason.DISABLED] == 1


@pytest.mark.parametrize("backend", ["null", "echo"])
@pytest.mark.parametrize(("descriptors", "fault"), TX_FAULTS.values(), ids=TX_FAULTS.keys())
def test_a_hostile_split_ring_breaks_and_is_mended(backend: str, descriptors: list, fault: Fault) -> None:
    with Harness(16, backend=backend) as harness:
        harness.start()
        offer(harness, harness.tx, descriptors)
        assert harness.next_report() == RingBroken(1, fault)
        expect_service_after_reset(harness)


@pytest.mark.parametrize("backend", ["null", "echo"])
@pytest.mark.parametrize(("descriptors", "fault"), PACKED_TX_FAULTS.values(), ids=PACKED_TX_FAULTS.keys())
def test_a_hostile_packed_ring_breaks_and_is_mended(backend: str, descriptors: list, fault: Fault) -> None:
    with Harness(16, PACKED, backend=backend) as harness:
        harness.start()
        harness.memory.write(harness.tx.guest.descriptors, b"".join(descriptors))
        os.eventfd_write(harness.tx.ring.kick_fd, 1)
        assert harness.next_report() == RingBroken(1, fault)
        expect_service_after_reset(harness)


def test_a_hostile_rx_ring_breaks_alone() -> None:
    with Harness(16, backend="echo") as harness:
        harness.start()
        add_one(harness.rx.virtqueue, 1 << 40, 2000, DESC_F_WRITE)
        notify(harness.rx.virtqueue)
        post_frame(harness, frame(60).data)
        assert harness.next_report() == RingBroken(0, Fault.ADDRESS_RANGE)
        expect_service_after_reset(harness)


@pytest.mark.parametrize("ring", [0, 1])
def test_an_index_that_runs_ahead_breaks_its_ring(ring: int) -> None:
    with Harness(16, backend="echo") as harness:
        harness.start()
        queue = (harness.rx, harness.tx)[ring]
        harness.memory.write(queue.guest.avail + 2, struct.pack("<H", 17))
        os.eventfd_write(queue.ring.kick_fd, 1)
        assert harness.next_report() == RingBroken(ring, Fault.AVAIL_INDEX)
        expect_service_after_reset(harness)


def expect_service_after_reset(harness: Harness) -> None:
    """The same worker serves the rings once they are set up anew."""
    reset(harness)
    before = int(harness.segment.rings[1].packets)
    add_one(harness.rx.virtqueue, harness.memory.allocate(2048), 2048, DESC_F_WRITE)
    notify(harness.rx.virtqueue)
    harness.sender.send([frame(77)])
    assert harness.segment.rings[1].packets == before + 1
