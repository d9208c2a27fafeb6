"""Rings written by an enemy: the worker lives, the other ring is served, and a reset mends all."""

import ctypes
import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpnet.guest.chain import Layout
from mpnet.guest.queue import Queue
from mpnet.rpc.worker import Failed, RingBroken
from mpnet.segment.layout import LOG_BYTES, LOG_ENTRIES, SPILL_BYTES, DropReason, Fault, RingState
from mpnet.workers.ring import look_again, open_burst
from tests.real.running import wait_until
from tests.test_datapath import PACKED, deliver, frame
from tests.worker_harness import FEATURES, HEADER_BYTES, Harness

ENTRIES = 16
NEXT, WRITE, INDIRECT = 1, 2, 4


def offer(harness: Harness, queue: Queue, descriptors: list[tuple[int, int, int, int]], head: int = 0) -> None:
    """Write descriptors into a ring's table as they are, make ``head`` available and kick."""
    table = b"".join(struct.pack("<QIHH", *descriptor) for descriptor in descriptors)
    harness.memory.write(queue.guest.descriptors, table)
    harness.memory.write(queue.guest.avail + 2, struct.pack("<HH", 1, head))
    assert queue.ring.kick_fd is not None
    os.eventfd_write(queue.ring.kick_fd, 1)


BUFFER = 0x1_0000_0000 + (8 << 20)


def packed(address: int, length: int, flags: int) -> bytes:
    """A descriptor that is available to a packed ring on its first lap."""
    return struct.pack("<QIHH", address, length, 0, flags | 1 << 7)


PACKED_TX_FAULTS = {
    "loop": ([packed(BUFFER, 60, NEXT)] * ENTRIES, Fault.CHAIN_LOOP),
    "outside memory": ([packed(1 << 40, 60, 0)], Fault.ADDRESS_RANGE),
    "zero length": ([packed(BUFFER, 0, 0)], Fault.ZERO_LENGTH),
    "writable": ([packed(BUFFER, 60, WRITE)], Fault.DIRECTION),
    "indirect with next": ([packed(BUFFER, 16, INDIRECT | NEXT)], Fault.INDIRECT_WITH_NEXT),
    "indirect of odd length": ([packed(BUFFER, 17, INDIRECT)], Fault.INDIRECT_LENGTH),
    "indirect outside memory": ([packed(1 << 40, 16, INDIRECT)], Fault.ADDRESS_RANGE),
}


@pytest.mark.parametrize(("descriptors", "fault"), PACKED_TX_FAULTS.values(), ids=PACKED_TX_FAULTS.keys())
def test_a_fault_breaks_a_packed_ring_alone_and_a_reset_mends_it(descriptors: list[bytes], fault: Fault) -> None:
    with Harness(entries=ENTRIES, features=PACKED) as harness:
        harness.start()
        harness.memory.write(harness.tx.guest.descriptors, b"".join(descriptors))
        assert harness.tx.ring.kick_fd is not None
        os.eventfd_write(harness.tx.ring.kick_fd, 1)
        assert harness.next_report() == RingBroken(1, fault)
        harness.receiver.post(1526, 4)
        deliver(harness, frame(60).data)
        assert harness.receiver.receive()[0].data == frame(60).data
        reset(harness)
        harness.sender.send([frame(77)])
        assert harness.tap.recv(1 << 17)[HEADER_BYTES:] == frame(77).data


@pytest.mark.parametrize("backend", ["tap", "echo"])
def test_a_frame_in_more_chains_than_a_packed_ring_notes_is_dropped(backend: str) -> None:
    """What a burst returns is noted ahead of another ring's notes, which are not to be written over."""
    entries = 2 * LOG_ENTRIES
    with Harness(entries=entries, features=PACKED, backend=backend) as harness:
        ring = [packed(BUFFER + 8 * number, 8, WRITE) for number in range(entries)]
        harness.memory.write(harness.rx.guest.descriptors, b"".join(ring))
        harness.start()
        long = frame(12 * LOG_ENTRIES)
        if backend == "echo":
            harness.sender.send([long])
        else:
            deliver(harness, long.data)
        dropping = harness.segment.rings[1 if backend == "echo" else 0]
        wait_until(lambda: dropping.drops[DropReason.TOO_LONG] == 1, "the frame was not dropped")
        assert harness.segment.rings[0].packets == 0
        assert not any(ctypes.string_at(harness.segment.log_address(2), LOG_BYTES))


@pytest.mark.parametrize("room", [1, 11])
def test_buffers_shorter_than_a_header_are_filled(room: int) -> None:
    with Harness() as harness:
        harness.start()
        harness.receiver.post(room, 64)
        deliver(harness, frame(54 - HEADER_BYTES + room).data)
        wait_until(lambda: harness.segment.rings[0].packets == 1, "the frame was not delivered")
        used = [harness.rx.take() for _ in range((54 + room - 1) // room + 1)]
        assert sum(length for _, length in filter(None, used)) == 54 + room


def test_a_frame_longer_than_the_spill_is_dropped_however_long_the_buffers() -> None:
    """It would have to go there when it turns out that the driver does not take it whole."""
    with Harness(entries=ENTRIES) as harness:
        harness.start()
        harness.receiver.post(2 * SPILL_BYTES, 2)
        gso_tcp = struct.pack("<BB", 0, 1).ljust(HEADER_BYTES, b"\0")
        harness.tap.send(gso_tcp + bytes([0xFF]) * SPILL_BYTES)
        deliver(harness, frame(60).data)
        assert harness.receiver.receive()[0].data == frame(60).data
        assert harness.segment.rings[0].drops[DropReason.TOO_LONG] == 1
        assert not any(ctypes.string_at(harness.segment.log_address(0), LOG_BYTES))


TX_FAULTS = {
    "loop": ([(BUFFER, 60, NEXT, 0)], Fault.CHAIN_LOOP),
    "next out of range": ([(BUFFER, 60, NEXT, ENTRIES)], Fault.NEXT_RANGE),
    "outside memory": ([(1 << 40, 60, 0, 0)], Fault.ADDRESS_RANGE),
    "address near the top": ([(2**64 - 16, 60, 0, 0)], Fault.ADDRESS_RANGE),
    "zero length": ([(BUFFER, 0, 0, 0)], Fault.ZERO_LENGTH),
    "writable": ([(BUFFER, 60, WRITE, 0)], Fault.DIRECTION),
    "indirect with next": ([(BUFFER, 16, INDIRECT | NEXT, 1)], Fault.INDIRECT_WITH_NEXT),
    "indirect of no length": ([(BUFFER, 0, INDIRECT, 0)], Fault.INDIRECT_LENGTH),
    "indirect outside memory": ([(1 << 40, 16, INDIRECT, 0)], Fault.ADDRESS_RANGE),
}


@pytest.mark.parametrize(("descriptors", "fault"), TX_FAULTS.values(), ids=TX_FAULTS.keys())
def test_a_fault_breaks_its_ring_alone_and_a_reset_mends_it(
    descriptors: list[tuple[int, int, int, int]], fault: Fault
) -> None:
    with Harness(entries=ENTRIES) as harness:
        harness.start()
        offer(harness, harness.tx, descriptors)
        assert harness.next_report() == RingBroken(1, fault)
        assert harness.tx.broken()
        harness.receiver.post(1526, 4)
        deliver(harness, frame(60).data)
        assert harness.receiver.receive()[0].data == frame(60).data
        reset(harness)
        harness.sender.send([frame(77)])
        assert harness.tap.recv(1 << 17)[HEADER_BYTES:] == frame(77).data
        assert harness.segment.rings[1].faults == 1


def test_an_rx_fault_leaves_tx_alone() -> None:
    with Harness(entries=ENTRIES) as harness:
        harness.start()
        offer(harness, harness.rx, [(BUFFER, 1526, 0, 0)])
        deliver(harness, frame(60).data)
        assert harness.next_report() == RingBroken(0, Fault.DIRECTION)
        harness.sender.send([frame(60)])
        assert harness.tap.recv(1 << 17)[HEADER_BYTES:] == frame(60).data


def test_a_head_beyond_the_table() -> None:
    with Harness(entries=ENTRIES) as harness:
        harness.start()
        offer(harness, harness.tx, [(BUFFER, 60, 0, 0)], head=ENTRIES)
        assert harness.next_report() == RingBroken(1, Fault.HEAD_RANGE)


def test_a_burst_goes_on_with_no_more_than_the_ring_has() -> None:
    with Harness(entries=ENTRIES) as harness:
        harness.start()
        # The worker sleeps: there is no kick.
        context = harness.worker.ctx
        ring = context.rings[1]

        def limit_after(driver_index: int) -> int:
            harness.memory.write(harness.tx.guest.avail + 2, struct.pack("<H", driver_index))
            look_again(context, 1)
            return int(ring.limit)

        assert not open_burst(context, 1)
        assert limit_after(5) == 5
        assert limit_after(7) == 5  # not all is taken
        ring.cursor = 5
        assert limit_after(ENTRIES + 1) == 5  # nothing has been given back
        assert limit_after(ENTRIES) == ENTRIES
        ring.cursor = 0


def test_ring_parts_outside_memory_are_refused() -> None:
    with Harness(entries=ENTRIES) as harness:
        for part in ("descriptor_address", "avail_address", "used_address"):
            good = getattr(harness.tx.ring, part)
            setattr(harness.tx.ring, part, 0x1000)
            answer = harness.set_ring(harness.tx)
            assert isinstance(answer, Failed)
            assert "0x1000" in answer.problem
            assert "share=on" in answer.remedy
            setattr(harness.tx.ring, part, good)
        harness.start()
        harness.sender.send([frame(60)])
        assert len(harness.tap.recv(1 << 17)) == 60 + HEADER_BYTES


def test_a_ring_in_memory_that_is_taken_away_breaks() -> None:
    with Harness(entries=ENTRIES) as harness:
        harness.start()
        regions = harness.memory.regions
        harness.memory.regions = ()
        harness.set_memory()
        reports = sorted((harness.next_report(), harness.next_report()), key=lambda report: int(report.index))
        assert reports == [RingBroken(0, Fault.RING_ADDRESS), RingBroken(1, Fault.RING_ADDRESS)]
        harness.memory.regions = regions
        harness.set_memory()
        harness.start(None)
        harness.sender.send([frame(60)], Layout((12,)))
        assert len(harness.tap.recv(1 << 17)) == 60 + HEADER_BYTES


def reset(harness: Harness) -> None:
    """What a guest does that resets its device: empty rings, set up anew."""
    for queue in (harness.tx, harness.rx):
        queue.reset()
    harness.start()


garbage = st.lists(
    st.tuples(
        st.sampled_from(["descriptors", "avail", "used"]),
        st.integers(0, 16 * ENTRIES - 8),
        st.one_of(
            st.binary(min_size=1, max_size=16),
            st.builds(
                lambda *fields: struct.pack("<QIHH", *fields),
                st.integers(BUFFER - 100, BUFFER + 100),
                st.integers(0, 3000),
                st.sampled_from([0, 1, 2, 3, 4]),
                st.integers(0, ENTRIES),
            ),
        ),
    ),
    min_size=1,
    max_size=20,
)


@settings(max_examples=150, deadline=None)
@given(writes=garbage, frames=st.integers(0, 3), features=st.sampled_from([FEATURES, PACKED]))
def test_no_garbage_in_its_rings_stops_a_worker(
    writes: list[tuple[str, int, bytes]], frames: int, features: int
) -> None:
    with Harness(entries=ENTRIES, features=features) as harness:
        harness.start()
        harness.tap.settimeout(0)
        for number in range(frames):
            deliver(harness, frame(100, number).data)
        for queue in (harness.tx, harness.rx):
            for part, offset, data in writes:
                harness.memory.write(getattr(queue.guest, part) + offset, data)
            assert queue.ring.kick_fd is not None
            os.eventfd_write(queue.ring.kick_fd, 1)
        # An answer comes from between two bursts: the worker lives and went through its rings.
        harness.set_memory()
        for ring in harness.segment.rings[:2]:
            assert ring.state in (RingState.RUNNING, RingState.BROKEN)
            assert (ring.state == RingState.BROKEN) == (ring.fault != Fault.NONE)
