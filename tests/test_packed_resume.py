"""A packed ring goes on after its back-end is gone, though its front-end tells the place of the first start."""

import itertools
import struct
from collections.abc import Callable

import pytest

from mpnet.guest.queue import Queue
from mpnet.rpc.worker import Done
from mpnet.virtio.features import Feature, mask
from mpnet.virtio.packed_ring import FIRST_CURSOR, available_flags, make_handover, used_flags
from mpnet.workers.packed import make_place
from tests.test_datapath import PACKED, deliver, frame
from tests.test_worker_rings import contents, note
from tests.worker_harness import HEADER_BYTES, Harness

ENTRIES = 16


def keep_all(_harness: Harness) -> None:
    """As a worker that ends in good order leaves it, and its control that crashed."""


def lose_segment(harness: Harness) -> None:
    """mpnet was stopped: nothing of its own is left."""
    for ring in harness.segment.rings:
        ring.place = 0


def lose_event(harness: Harness) -> None:
    """The worker was killed: it left nothing in the rings' event areas."""
    for queue in (harness.rx, harness.tx):
        harness.memory.write(queue.guest.used, bytes(4))


def lose_all(harness: Harness) -> None:
    lose_segment(harness)
    lose_event(harness)


def mislead(harness: Harness) -> None:
    """Shared memory and the event areas are of another guest."""
    for ring in harness.segment.rings:
        ring.place = make_place(3, FIRST_CURSOR | 1, 2)
    for queue in (harness.rx, harness.tx):
        harness.memory.write(queue.guest.used, struct.pack("<HH", FIRST_CURSOR | 5, 2))


@pytest.mark.parametrize("features", [PACKED, PACKED & ~mask(Feature.RING_EVENT_IDX)], ids=["event", "flags"])
@pytest.mark.parametrize("loss", [keep_all, lose_segment, lose_event, lose_all, mislead])
def test_a_packed_ring_goes_on(loss: Callable[[Harness], None], features: int) -> None:
    with Harness(entries=ENTRIES, features=features) as harness:
        harness.start()
        numbers = itertools.count()
        for packets in (1, 2, 4, 7, 9, 16):  # so that it is left in every part of either lap
            exchange(harness, numbers, packets)
            harness.stop_worker()
            loss(harness)
            harness._start_worker()
            assert harness.start() == [Done(), Done()]


def exchange(harness: Harness, numbers: "itertools.count[int]", packets: int) -> None:
    for _ in range(packets):
        sent, received = frame(60, next(numbers)), frame(60, next(numbers))
        harness.sender.send([sent])
        assert harness.tap.recv(1 << 17)[HEADER_BYTES:] == sent.data
        harness.receiver.post(1526, 1)
        deliver(harness, received.data)
        assert harness.receiver.receive()[0].data == received.data


def test_a_burst_that_was_never_shown_is_shown_once_control_has_crashed_too() -> None:
    """The worker was killed between the second descriptor and the first, and there is no replacement."""
    with Harness(entries=ENTRIES, features=PACKED) as harness:
        available, used = available_flags(1), used_flags(1)
        ring = [(60, 3, available), (60, 4, used), (60, 5, available)]
        harness.memory.write(harness.tx.guest.descriptors, table(ring))
        note(harness, 0, make_handover(0, 3, 1))
        note(harness, 1, make_handover(0, 4, 1))
        harness.segment.rings[1].place = make_place(FIRST_CURSOR | 2, FIRST_CURSOR, 2)
        assert harness.set_ring(harness.tx) == Done()
        ring[0], ring[1] = (0, 3, used), (0, 4, used)
        # The third is none of the burst: it is served, or found wanting, after it.
        assert contents(harness, harness.tx)[: 2 * 16] == table(ring[:2])
        assert harness.segment.rings[1].place & 0xFFFF in (FIRST_CURSOR | 2, FIRST_CURSOR | 3)


def table(ring: list[tuple[int, int, int]]) -> bytes:
    return b"".join(struct.pack("<QIHH", 0, *descriptor) for descriptor in ring)


def test_a_place_that_is_possible_is_believed() -> None:
    """It is the front-end's: another back-end may have served the ring in between."""
    with Harness(entries=ENTRIES, features=PACKED) as harness:
        harness.start()
        exchange(harness, itertools.count(), 5)
        places = [stop(harness, queue) for queue in (harness.rx, harness.tx)]
        assert places == [FIRST_CURSOR | 5] * 2
        mislead(harness)
        for queue, place in zip((harness.rx, harness.tx), places, strict=True):
            assert harness.set_ring(queue, place) == Done()
        exchange(harness, itertools.count(), 5)


def stop(harness: Harness, queue: Queue) -> int:
    harness.ask_to_stop(queue.ring.index)
    return int(harness.segment.rings[queue.ring.index].place) & 0xFFFF
