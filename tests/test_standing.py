"""Where a packed ring stands, found in its descriptors after any history of driver and device."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpnet.virtio.packed_ring import (
    FIRST_CURSOR,
    advance,
    available_flags,
    make_handover,
    position,
    used_flags,
    wraps,
)
from mpnet.workers.packed import make_place
from mpnet.workers.standing import Standing


class Ring:
    """A driver and a device that keep to the specification, in order, on descriptors of their own."""

    def __init__(self, entries: int, *, recycle: bool = False) -> None:
        self.entries = entries
        self.slots = [(0, 0)] * entries  # id and flags
        self.driver = self.device = FIRST_CURSOR
        self.chains: list[tuple[int, int]] = []  # id and descriptors of those in flight
        self.free = list(range(entries))
        self.recycle = recycle

    @property
    def room(self) -> int:
        return self.entries - sum(span for _, span in self.chains)

    def add(self, span: int) -> None:
        if span > self.room:
            return
        buffer_id = self.free.pop(0 if not self.recycle else -1)
        for number in range(span):
            goes_on = int(number < span - 1)
            self.slots[position(self.driver)] = (buffer_id, available_flags(wraps(self.driver)) | goes_on)
            self.driver = advance(self.driver, 1, self.entries)
        self.chains.append((buffer_id, span))

    def use(self) -> None:
        if not self.chains:
            return
        buffer_id, span = self.chains.pop(0)
        self.slots[position(self.device)] = (buffer_id, used_flags(wraps(self.device)))
        self.device = advance(self.device, span, self.entries)
        self.free.append(buffer_id)

    def table(self) -> bytes:
        return b"".join(struct.pack("<QIHH", 0, 60, *slot) for slot in self.slots)


def history(spans: st.SearchStrategy[int]) -> st.SearchStrategy[list[int]]:
    """Chains that are added, and 0 for one that is used."""
    return st.lists(st.just(0) | spans, max_size=60)


def play(ring: Ring, steps: list[int]) -> Ring:
    for step in steps:
        ring.add(step) if step else ring.use()
    return ring


@settings(max_examples=500, deadline=None)
@given(entries=st.integers(1, 9), steps=history(st.integers(1, 4)), recycle=st.booleans())
def test_the_right_place_is_always_among_those_found(entries: int, steps: list[int], recycle: bool) -> None:
    ring = play(Ring(entries, recycle=recycle), steps)
    found = Standing(ring.table()).cursors()
    assert ring.device in found
    assert len(found) <= 3


@settings(max_examples=500, deadline=None)
@given(entries=st.integers(2, 9), steps=history(st.just(1)), recycle=st.booleans())
def test_of_chains_of_one_the_first_one_found_is_right(entries: int, steps: list[int], recycle: bool) -> None:
    """With indirect descriptors, as Linux uses them, every chain is one."""
    ring = play(Ring(entries, recycle=recycle), steps)
    assert Standing(ring.table()).cursors()[0] == ring.device


@settings(max_examples=200, deadline=None)
@given(entries=st.integers(4, 9), steps=history(st.integers(1, 3)), count=st.integers(2, 4))
def test_a_burst_that_was_not_shown_is_finished(entries: int, steps: list[int], count: int) -> None:
    """Its worker was killed when it had written all but the first of what it returned."""
    ring = play(Ring(entries), steps)
    for _ in range(count):
        ring.add(1)
    burst = ring.chains[:count]
    began, first = ring.device, ring.slots[position(ring.device)]
    for _ in burst:
        ring.use()
    place = make_place(ring.device, began, len(burst))
    log = b"".join(struct.pack("<q", make_handover(0, buffer_id, span)) for buffer_id, span in burst)
    if not burst:
        return
    ring.slots[position(began)] = first
    standing = Standing(ring.table())
    assert standing.finish(log, place)
    assert ring.device in standing.cursors()


def test_a_burst_that_was_shown_or_is_none_is_not_finished() -> None:
    ring = play(Ring(4), [1, 1, 0, 0])
    log = struct.pack("<qq", make_handover(0, 0, 1), make_handover(0, 1, 1))
    assert not Standing(ring.table()).finish(log, make_place(ring.device, FIRST_CURSOR, 2)), "it was shown"
    for place, noted in (
        (make_place(FIRST_CURSOR | 1, FIRST_CURSOR, 0), log),
        (make_place(FIRST_CURSOR | 1, FIRST_CURSOR, 5000), log),
        (make_place(FIRST_CURSOR | 1, FIRST_CURSOR, -1), log),
        (make_place(FIRST_CURSOR | 1, FIRST_CURSOR | 4, 1), log),
        (make_place(FIRST_CURSOR | 3, FIRST_CURSOR, 2), log),
        (make_place(FIRST_CURSOR | 2, FIRST_CURSOR, 2), b""),
        (make_place(FIRST_CURSOR | 1, FIRST_CURSOR, 1), struct.pack("<q", make_handover(0, 0, 5))),
        (make_place(FIRST_CURSOR, FIRST_CURSOR, 1), struct.pack("<q", make_handover(0, 0, 0))),
    ):
        assert not Standing(play(Ring(4), [1, 1]).table()).finish(noted, place)


@pytest.mark.parametrize("entries", [1, 2, 256, 32768])
def test_an_empty_ring_stands_at_its_beginning(entries: int) -> None:
    assert Standing(bytes(16 * entries)).cursors()[0] == FIRST_CURSOR


@given(st.binary(min_size=16, max_size=16 * 8))
def test_whatever_a_guest_writes_is_looked_at(table: bytes) -> None:
    entries = len(table) // 16
    for cursor in Standing(table[: 16 * entries]).cursors():
        assert position(cursor) < entries
