"""The data path in one process: every byte, whatever the layout of the driver's buffers.

Runs compiled here, and once more interpreted by ``test_interpreted.py``.
"""

import os
import random
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpnet.guest.chain import PLAIN, Layout
from mpnet.guest.frame import Frame, NetHeader
from mpnet.guest.queue import Queue
from mpnet.guest.virtqueue import add_one, notify
from mpnet.jit.compile import JIT
from mpnet.rpc.worker import Done, RingBroken, StopRing
from mpnet.segment.layout import DropReason, Fault, RingState
from mpnet.virtio.features import Feature, mask
from mpnet.virtio.packed_ring import FIRST_CURSOR, available_flags
from mpnet.virtio.split_ring import DESC_F_WRITE
from tests.worker_harness import FEATURES, HEADER_BYTES, Harness

DESC_F_READ = 0
ONE_BYTE = (1,) * 40
LAYOUTS = {
    "plain": Layout(),
    "header apart": Layout((12,)),
    "header split": Layout((5,)),
    "many": Layout((3, 7, 2, 30, 1, 17)),
    "one byte each": Layout(ONE_BYTE),
    "indirect": Layout((12,), 0),
    "indirect behind direct": Layout((4, 9), 1),
}


PACKED = FEATURES | mask(Feature.RING_PACKED)
NO_EVENT = mask(Feature.RING_EVENT_IDX)
RINGS = {"split": (FEATURES, 64), "packed": (PACKED, 64)}
if JIT:
    # Interpreted they would take long, for a few lines that tests of their own run as well.
    RINGS |= {
        "split without event index": (FEATURES & ~NO_EVENT, 64),
        "packed, of an odd size": (PACKED, 51),
        "packed without event index": (PACKED & ~NO_EVENT, 64),
    }


def frame(size: int, seed: int = 0) -> Frame:
    """A frame of ``size`` bytes; the "TAP" of these tests does not look into it."""
    return Frame(random.Random(seed).randbytes(size))


def deliver(harness: Harness, data: bytes) -> None:
    """Put a frame on the TAP for the guest."""
    harness.tap.send(NetHeader().pack(HEADER_BYTES) + data)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize(("features", "entries"), RINGS.values(), ids=RINGS.keys())
def test_tx_is_byte_exact(layout: Layout, features: int, entries: int) -> None:
    with Harness(entries=entries, features=features) as harness:
        harness.start()
        frames = [frame(size, size) for size in (14, 60, 61, 590, 1514, 9014)]
        harness.sender.send(frames, layout)
        for sent in frames:
            assert harness.tap.recv(1 << 17) == sent.header.pack(HEADER_BYTES) + sent.data
        tx = harness.segment.rings[1]
        assert (tx.packets, tx.bytes) == (len(frames), sum(len(sent.data) for sent in frames))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("room", [64, 200, 1526, 70000])
@pytest.mark.parametrize("features", [FEATURES, PACKED], ids=["split", "packed"])
def test_rx_is_byte_exact(layout: Layout, room: int, features: int) -> None:
    with Harness(entries=4096, features=features, sizes=(64 << 20,)) as harness:
        harness.start()
        harness.receiver.post(room, 20 if room == 70000 else 256, layout)
        sizes = [14, 60, 1514, 3000] if room < 200 else [14, 60, 61, 1514, 9014]
        for size in sizes:
            deliver(harness, frame(size, size).data)
        got = harness.receiver.receive(len(sizes))
        assert [f.data for f in got] == [frame(size, size).data for size in sizes]
        rx = harness.segment.rings[0]
        assert (rx.packets, rx.bytes) == (len(sizes), sum(sizes))


def test_a_chain_of_more_segments_than_writev_takes() -> None:
    with Harness(entries=4096) as harness:
        harness.start()
        sent = frame(1514)
        harness.sender.send([sent], Layout((1,) * 1525))
        assert harness.tap.recv(1 << 17)[HEADER_BYTES:] == sent.data


def test_rx_into_more_segments_than_readv_takes() -> None:
    with Harness(entries=4096) as harness:
        harness.start()
        harness.receiver.post(1526, 2, Layout((1,) * 1525))
        deliver(harness, frame(1514).data)
        assert harness.receiver.receive()[0].data == frame(1514).data


@pytest.mark.parametrize("shorts", [15, 16, 17])
def test_a_long_frame_follows_many_short_ones(shorts: int) -> None:
    """After some short ones the next is read another way, whatever it then is."""
    with Harness(entries=256) as harness:
        harness.start()
        harness.receiver.post(1526, 64)
        sent = [frame(size, number) for number, size in enumerate([*(60,) * shorts, 9000, *(244, 245) * shorts])]
        for each in sent:
            deliver(harness, each.data)
        assert [each.data for each in harness.receiver.receive(len(sent))] == [each.data for each in sent]


def test_rx_without_mergeable_buffers_takes_one_chain_a_frame() -> None:
    with Harness(features=FEATURES & ~mask(Feature.MRG_RXBUF)) as harness:
        harness.start()
        harness.receiver.post(1526, 8)
        deliver(harness, frame(2000).data)
        deliver(harness, frame(1514).data)
        assert harness.receiver.receive()[0].data == frame(1514).data
        assert harness.segment.rings[0].drops[DropReason.TOO_LONG] == 1


@pytest.mark.parametrize("features", [FEATURES, PACKED], ids=["split", "packed"])
def test_rx_waits_for_buffers_and_loses_nothing(features: int) -> None:
    with Harness(features=features) as harness:
        harness.start()
        data = [frame(4000, seed).data for seed in range(4)]
        deliver(harness, data[0])
        harness.receiver.post(600, 3)  # too few for a frame
        for more in data[1:]:
            deliver(harness, more)
        assert harness.receiver.receive(1, 0.2) == []
        harness.receiver.post(600, 40)
        assert [f.data for f in harness.receiver.receive(4)] == data


@pytest.mark.parametrize("layout", [PLAIN, Layout((12,))], ids=["single", "two descriptors"])
def test_a_frame_that_the_whole_ring_cannot_hold_is_dropped_and_counted(layout: Layout) -> None:
    with Harness(entries=4) as harness:
        harness.start()
        harness.receiver.post(100, 4 if layout is PLAIN else 2, layout)
        deliver(harness, frame(600).data)
        deliver(harness, frame(60).data)
        assert harness.receiver.receive()[0].data == frame(60).data
        assert harness.segment.rings[0].drops[DropReason.TOO_LONG] == 1


def test_legacy_header_of_ten_bytes() -> None:
    with Harness(features=0) as harness:
        harness.start()
        harness.sender.send([frame(60)])
        assert harness.tap.recv(1 << 17) == bytes(10) + frame(60).data
        harness.receiver.post(1524, 2)
        harness.tap.send(bytes(10) + frame(99).data)
        assert harness.receiver.receive()[0].data == frame(99).data


def test_header_flags_are_cleared_for_a_driver_without_guest_csum() -> None:
    with Harness(features=FEATURES & ~mask(Feature.GUEST_CSUM)) as harness:
        harness.start()
        harness.receiver.post(1526, 2)
        harness.tap.send(NetHeader(flags=2).pack(HEADER_BYTES) + frame(60).data)
        assert harness.receiver.receive()[0].header.flags == 0


def test_short_tx_chains_are_dropped_and_returned() -> None:
    with Harness() as harness:
        harness.start()
        harness.sender.send([frame(13), frame(60)])
        assert harness.tap.recv(1 << 17)[HEADER_BYTES:] == frame(60).data
        assert harness.segment.rings[1].drops[DropReason.SHORT_CHAIN] == 1


def test_over_long_tx_chains_are_dropped_and_returned() -> None:
    with Harness() as harness:
        harness.start()
        harness.sender.send([frame(90000), frame(60)])
        assert harness.tap.recv(1 << 17)[HEADER_BYTES:] == frame(60).data
        assert harness.segment.rings[1].drops[DropReason.TOO_LONG] == 1


@pytest.mark.parametrize("features", [FEATURES, PACKED], ids=["split", "packed"])
def test_a_disabled_ring_discards_tx_and_supplies_no_rx(features: int) -> None:
    with Harness(features=features) as harness:
        harness.start(enabled=False)
        harness.receiver.post(1526, 8)
        deliver(harness, frame(60).data)
        harness.sender.send([frame(60), frame(61)])
        assert harness.segment.rings[1].drops[DropReason.DISABLED] == 2
        assert harness.receiver.receive(1, 0.1) == []
        assert harness.segment.rings[0].state == RingState.DISABLED
        harness.start(None)
        assert harness.receiver.receive()[0].data == frame(60).data


@pytest.mark.parametrize("features", [FEATURES, PACKED], ids=["split", "packed"])
def test_stopping_tells_where_the_ring_stands_and_starting_goes_on_there(features: int) -> None:
    with Harness(features=features) as harness:
        harness.start()
        harness.sender.send([frame(60)] * 5)
        place = 5 | FIRST_CURSOR if harness.tx.packed else 5
        assert harness.ask(StopRing(1)) == Done(place)
        assert harness.segment.rings[1].state == RingState.STOPPED
        harness.set_ring(harness.tx, place)
        harness.sender.send([frame(61)])
        for _ in range(5):
            harness.tap.recv(1 << 17)
        assert harness.tap.recv(1 << 17)[HEADER_BYTES:] == frame(61).data


@pytest.mark.parametrize("features", [FEATURES, PACKED], ids=["split", "packed"])
def test_a_replacement_goes_on_from_shared_memory_with_the_frame_that_waits_there(features: int) -> None:
    with Harness(features=features) as harness:
        harness.start()
        harness.sender.send([frame(60)] * 3)
        harness.receiver.post(600, 3)
        deliver(harness, frame(4000).data)
        assert harness.receiver.receive(1, 0.1) == []
        harness.replace_worker()
        harness.sender.send([frame(61)])
        harness.receiver.post(600, 20)
        assert harness.receiver.receive()[0].data == frame(4000).data
        assert harness.segment.rings[1].packets == 4


def test_a_used_index_that_was_not_published_is_published_by_the_next_worker() -> None:
    with Harness() as harness:
        harness.start()
        harness.sender.send([frame(60)] * 3)
        harness.memory.write(harness.tx.guest.used + 2, (2).to_bytes(2, "little"))  # as if it died in between
        harness.replace_worker()
        assert harness.memory.read(harness.tx.guest.used + 2, 2) == (3).to_bytes(2, "little")


def test_rings_wrap_their_indexes() -> None:
    with Harness(entries=4) as harness:
        harness.memory.write(harness.tx.guest.used + 2, (65530).to_bytes(2, "little"))
        harness.memory.write(harness.tx.guest.avail + 2, (65530).to_bytes(2, "little"))
        harness.tx.virtqueue.state[0].avail_index = 65530
        harness.tx.virtqueue.state[0].used_seen = harness.tx.virtqueue.state[0].used_index = 65530
        harness.start(65530)
        for number in range(20):
            harness.sender.send([frame(60 + number)])
            assert harness.tap.recv(1 << 17)[HEADER_BYTES:] == frame(60 + number).data


def test_every_wish_for_a_call_is_heard_without_event_index() -> None:
    with Harness(features=FEATURES & ~mask(Feature.RING_EVENT_IDX)) as harness:
        harness.start()
        for number in range(200):
            harness.sender.send([frame(60 + number)])
            assert len(harness.tap.recv(1 << 17)) == 60 + number + HEADER_BYTES


@pytest.mark.parametrize("ahead", [65, 1000, 65535])
def test_an_avail_index_beyond_the_ring_breaks_it_and_only_it(ahead: int) -> None:
    with Harness(entries=64) as harness:
        harness.start()
        harness.memory.write(harness.tx.guest.avail + 2, ahead.to_bytes(2, "little"))
        _kick(harness.tx)
        assert harness.next_report() == RingBroken(1, Fault.AVAIL_INDEX)
        assert harness.tx.broken()
        shared = harness.segment.rings[1]
        assert (shared.state, shared.fault, shared.faults) == (RingState.BROKEN, Fault.AVAIL_INDEX, 1)
        harness.receiver.post(1526, 8)
        deliver(harness, frame(60).data)
        assert harness.receiver.receive()[0].data == frame(60).data


HALF = 8 << 20


def test_memory_that_shrinks_breaks_the_tx_ring_that_reads_it_and_no_other() -> None:
    with Harness(sizes=(HALF, HALF), backing="shm") as harness:
        harness.start()
        harness.receiver.post(1526, 8)
        os.ftruncate(harness.memory.fd, HALF)
        _offer(harness.tx, harness.memory.regions[1].guest_address, DESC_F_READ)
        assert harness.next_report() == RingBroken(1, Fault.MEMORY_LOST)
        deliver(harness, frame(60).data)
        assert harness.receiver.receive()[0].data == frame(60).data


def test_memory_that_shrinks_breaks_the_rx_ring_that_fills_it_and_no_other() -> None:
    with Harness(sizes=(HALF, HALF), backing="shm") as harness:
        harness.start()
        os.ftruncate(harness.memory.fd, HALF)
        _offer(harness.rx, harness.memory.regions[1].guest_address, DESC_F_WRITE)
        deliver(harness, frame(60).data)
        assert harness.next_report() == RingBroken(0, Fault.MEMORY_LOST)
        harness.sender.send([frame(60)])
        assert harness.tap.recv(1 << 17)[HEADER_BYTES:] == frame(60).data


def _offer(queue: Queue, address: int, flags: int) -> None:
    """Make one buffer available that the driver itself does not touch."""
    add_one(queue.virtqueue, address, 1526, flags)
    notify(queue.virtqueue)


def _kick(queue: Queue) -> None:
    assert queue.ring.kick_fd is not None
    os.eventfd_write(queue.ring.kick_fd, 1)


layouts = st.builds(
    Layout,
    st.lists(st.integers(1, 300), max_size=30).map(tuple),
    st.one_of(st.none(), st.integers(0, 3)),
)


@pytest.fixture(scope="module")
def long_lived() -> Iterator[Harness]:
    with Harness(entries=256, sizes=(1 << 20, 8 << 20, 32 << 20)) as harness:
        harness.start()
        yield harness


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(14, 66000), min_size=1, max_size=8), layout=layouts)
def test_any_tx_layout(long_lived: Harness, sizes: list[int], layout: Layout) -> None:
    for size in sizes:
        long_lived.sender.send([frame(size, size)], layout)
        assert long_lived.tap.recv(1 << 17)[HEADER_BYTES:] == frame(size, size).data


@settings(max_examples=60, deadline=None)
@given(
    room=st.integers(40, 5000),
    count=st.integers(2, 60),
    layout=layouts,
    sizes=st.lists(st.integers(14, 3000), min_size=1, max_size=8),
)
def test_any_rx_layout(room: int, count: int, layout: Layout, sizes: list[int]) -> None:
    with Harness(entries=256) as harness:
        harness.start()
        room_in_all = room * harness.receiver.post(room, count, layout)
        data = [frame(size, size).data for size in sizes if size + HEADER_BYTES <= room_in_all]
        for content in data:
            deliver(harness, content)
        assert [f.data for f in harness.receiver.receive(len(data))] == data


@pytest.mark.parametrize("entries", [1, 2, 3, 7, 100, 32768])
def test_packed_rings_of_any_size_wrap(entries: int) -> None:
    with Harness(entries=entries, features=PACKED) as harness:
        harness.start()
        harness.receiver.post(1526, min(entries, 64))
        for number in range(40):
            layout = PLAIN if entries < 3 else Layout((12, 3))
            harness.sender.send([frame(60 + number)], layout)
            assert harness.tap.recv(1 << 17)[HEADER_BYTES:] == frame(60 + number).data
            deliver(harness, frame(70 + number).data)
            assert harness.receiver.receive()[0].data == frame(70 + number).data


def test_a_packed_burst_that_was_not_shown_is_shown_by_the_next_worker() -> None:
    with Harness(entries=8, features=PACKED) as harness:
        harness.start()
        harness.sender.send([frame(60)] * 3)
        begin = int(harness.segment.rings[1].place) >> 16 & 0xFFFF
        first = harness.tx.guest.descriptors + 16 * (begin & 0x7FFF)
        used = harness.memory.read(first, 16)
        # As if it died before the last step: the driver sees the descriptor as it made it available.
        harness.memory.write(first + 14, struct.pack("<H", available_flags(begin >> 15)))
        harness.replace_worker()
        assert harness.memory.read(first, 16) == used
        harness.sender.send([frame(61)] * 9)
        assert harness.segment.rings[1].packets == 12


def test_a_burst_that_the_driver_has_seen_is_not_written_again() -> None:
    with Harness(entries=4, features=PACKED) as harness:
        harness.start()
        for _ in range(3):
            harness.sender.send([frame(60)] * 3)
        table = harness.memory.read(harness.tx.guest.descriptors, 64)
        harness.replace_worker()
        assert harness.memory.read(harness.tx.guest.descriptors, 64) == table
        harness.sender.send([frame(61)] * 9)
        assert harness.segment.rings[1].packets == 18


def test_a_base_of_zero_begins_a_new_packed_ring_and_goes_on_with_one_that_was_all_round() -> None:
    with Harness(entries=4, features=PACKED) as harness:
        harness.set_ring(harness.tx, 0, exact=True)
        harness.sender.send([frame(60)] * 4)
        assert harness.ask(StopRing(1)) == Done(0)
        harness.set_ring(harness.tx, 0, exact=True)
        harness.sender.send([frame(61)] * 3)
        assert harness.segment.rings[1].packets == 7


@pytest.mark.parametrize("features", [FEATURES, PACKED], ids=["split", "packed"])
def test_rings_without_eventfds_are_polled(features: int) -> None:
    with Harness(features=features, polled=True) as harness:
        harness.start()
        for number in range(5):
            harness.sender.send([frame(60 + number)])
            assert harness.tap.recv(1 << 17)[HEADER_BYTES:] == frame(60 + number).data
            deliver(harness, frame(70 + number).data)
            harness.receiver.post(1526)
            assert harness.receiver.receive()[0].data == frame(70 + number).data
