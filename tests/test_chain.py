"""Walking descriptor chains: what a guest may lay out, and every way to break it."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpnet.segment import layout
from mpnet.segment.layout import Fault
from mpnet.virtio.split_ring import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE
from mpnet.workers import chain
from mpnet.workers.state import Context, Scratch, make_context

SIZE = 8
BASE = 0x10000
REGION = 0x4000


class Guest:
    """Two regions of guest memory next to each other in guest addresses, apart in ours."""

    def __init__(self) -> None:
        rings = np.zeros(layout.ring_count(1), layout.RING).view(np.recarray)
        stats = np.zeros(1, layout.WORKER).view(np.recarray)
        self.scratch = Scratch()
        self.ctx: Context = make_context(rings, stats, self.scratch)
        self.halves = [np.zeros(REGION, np.uint8) for _ in range(2)]
        self.ctx.worker[0].regions = 2
        for i, half in enumerate(self.halves):
            self.ctx.regions[i].guest_address = BASE + i * REGION
            self.ctx.regions[i].length = REGION
            self.ctx.regions[i].host_address = half.ctypes.data
        self.table = np.zeros(16 * SIZE, np.uint8)
        ring = self.ctx.rings[0]
        ring.entries, ring.indirect, ring.descriptors = SIZE, 1, self.table.ctypes.data

    def write(self, address: int, data: bytes) -> None:
        for i, byte in enumerate(data):
            offset = address + i - BASE
            self.halves[offset // REGION][offset % REGION] = byte

    def describe(self, index: int, address: int, length: int, flags: int = 0, following: int = 0) -> None:
        raw = struct.pack("<QIHH", address, length, flags, following)
        self.table[16 * index : 16 * index + 16] = np.frombuffer(raw, np.uint8)

    def walk(self, head: int = 0, direction: int = chain.READABLE) -> list[tuple[int, int]] | Fault:
        end = chain.walk(self.ctx, 0, head, 0, direction)
        if end < 0:
            return Fault(int(self.ctx.worker[0].fault))
        return [(chain.iovec_base(self.ctx, i), chain.iovec_length(self.ctx, i)) for i in range(end)]

    def host(self, address: int) -> int:
        offset = address - BASE
        return int(self.halves[offset // REGION].ctypes.data) + offset % REGION


@pytest.fixture
def guest() -> Guest:
    return Guest()


def test_direct_chain(guest: Guest) -> None:
    guest.describe(3, BASE, 100, DESC_F_NEXT, 5)
    guest.describe(5, BASE + 200, 50)
    assert guest.walk(3) == [(guest.host(BASE), 100), (guest.host(BASE + 200), 50)]


def test_buffer_crosses_regions(guest: Guest) -> None:
    guest.describe(0, BASE + REGION - 10, 30)
    assert guest.walk() == [(guest.host(BASE + REGION - 10), 10), (guest.host(BASE + REGION), 20)]


def test_indirect_table_behind_direct_descriptors_and_across_regions(guest: Guest) -> None:
    table = BASE + REGION - 24  # its second descriptor lies in both regions
    guest.write(table, struct.pack("<QIHH", BASE + 64, 7, DESC_F_NEXT, 1))
    guest.write(table + 16, struct.pack("<QIHH", BASE + 128, 9, 0, 0))
    guest.describe(0, BASE, 5, DESC_F_NEXT, 1)
    guest.describe(1, table, 32, DESC_F_INDIRECT)
    assert guest.walk() == [(guest.host(BASE), 5), (guest.host(BASE + 64), 7), (guest.host(BASE + 128), 9)]


def test_readable_then_writable(guest: Guest) -> None:
    guest.describe(0, BASE, 5, DESC_F_NEXT, 1)
    guest.describe(1, BASE + 8, 3, DESC_F_WRITE)
    assert guest.walk(direction=chain.EITHER) == [(guest.host(BASE), 5), (guest.host(BASE + 8), 3)]
    assert guest.ctx.worker[0].readable == 5


def _self_loop(guest: Guest) -> None:
    guest.describe(0, BASE, 1, DESC_F_NEXT, 0)


def _long_loop(guest: Guest) -> None:
    for i in range(SIZE):
        guest.describe(i, BASE, 1, DESC_F_NEXT, (i + 1) % SIZE)


def _next_out_of_range(guest: Guest) -> None:
    guest.describe(0, BASE, 1, DESC_F_NEXT, SIZE)


def _zero_length(guest: Guest) -> None:
    guest.describe(0, BASE, 0)


def _wrong_direction(guest: Guest) -> None:
    guest.describe(0, BASE, 1, DESC_F_WRITE)


def _below_memory(guest: Guest) -> None:
    guest.describe(0, BASE - 1, 2)


def _beyond_memory(guest: Guest) -> None:
    guest.describe(0, BASE + 2 * REGION - 1, 2)


def _address_with_the_high_bit(guest: Guest) -> None:
    guest.describe(0, 2**64 - 8, 16)


def _huge_length(guest: Guest) -> None:
    guest.describe(0, BASE, 2**32 - 1)


def _nested_indirect(guest: Guest) -> None:
    guest.write(BASE, struct.pack("<QIHH", BASE, 16, DESC_F_INDIRECT, 0))
    guest.describe(0, BASE, 16, DESC_F_INDIRECT)


def _indirect_with_next(guest: Guest) -> None:
    guest.describe(0, BASE, 16, DESC_F_INDIRECT | DESC_F_NEXT, 1)


def _indirect_of_no_length(guest: Guest) -> None:
    guest.describe(0, BASE, 0, DESC_F_INDIRECT)


def _indirect_of_odd_length(guest: Guest) -> None:
    guest.describe(0, BASE, 17, DESC_F_INDIRECT)


def _indirect_outside_memory(guest: Guest) -> None:
    guest.describe(0, BASE + 2 * REGION - 16, 32, DESC_F_INDIRECT)


def _indirect_too_long(guest: Guest) -> None:
    guest.describe(0, BASE, 16 * 32769, DESC_F_INDIRECT)


def _indirect_loop(guest: Guest) -> None:
    guest.write(BASE, struct.pack("<QIHH", BASE, 1, DESC_F_NEXT, 0))
    guest.describe(0, BASE, 16, DESC_F_INDIRECT)


def _indirect_not_negotiated(guest: Guest) -> None:
    guest.ctx.rings[0].indirect = 0
    guest.describe(0, BASE, 16, DESC_F_INDIRECT)


@pytest.mark.parametrize(
    ("build", "fault"),
    [
        (_self_loop, Fault.CHAIN_LOOP),
        (_long_loop, Fault.CHAIN_LOOP),
        (_next_out_of_range, Fault.NEXT_RANGE),
        (_zero_length, Fault.ZERO_LENGTH),
        (_wrong_direction, Fault.DIRECTION),
        (_below_memory, Fault.ADDRESS_RANGE),
        (_beyond_memory, Fault.ADDRESS_RANGE),
        (_address_with_the_high_bit, Fault.ADDRESS_RANGE),
        (_huge_length, Fault.ADDRESS_RANGE),
        (_nested_indirect, Fault.INDIRECT_NESTED),
        (_indirect_with_next, Fault.INDIRECT_WITH_NEXT),
        (_indirect_of_no_length, Fault.INDIRECT_LENGTH),
        (_indirect_of_odd_length, Fault.INDIRECT_LENGTH),
        (_indirect_outside_memory, Fault.ADDRESS_RANGE),
        (_indirect_too_long, Fault.TOO_MANY_SEGMENTS),
        (_indirect_loop, Fault.CHAIN_LOOP),
        (_indirect_not_negotiated, Fault.INDIRECT_NOT_NEGOTIATED),
    ],
)
def test_hostile_chain(guest: Guest, build: object, fault: Fault) -> None:
    assert callable(build)
    build(guest)
    assert guest.walk() == fault


@pytest.mark.parametrize("head", [SIZE, SIZE + 1, 0xFFFF])
def test_head_out_of_range(guest: Guest, head: int) -> None:
    assert guest.walk(head) == Fault.HEAD_RANGE


def test_readable_behind_writable(guest: Guest) -> None:
    guest.describe(0, BASE, 1, DESC_F_WRITE | DESC_F_NEXT, 1)
    guest.describe(1, BASE, 1)
    assert guest.walk(direction=chain.EITHER) == Fault.DIRECTION


_shared = Guest()


@settings(max_examples=300, deadline=None)
@given(
    table=st.binary(min_size=16 * SIZE, max_size=16 * SIZE), head=st.integers(0, 2 * SIZE), content=st.binary()
)
def test_any_table_gives_guest_memory_or_a_fault(table: bytes, head: int, content: bytes) -> None:
    _shared.table[:] = np.frombuffer(table, np.uint8)
    _shared.write(BASE, content[: 2 * REGION])
    _check_inside(_shared.walk(head, chain.EITHER))


@settings(max_examples=300, deadline=None)
@given(
    descriptors=st.lists(
        st.tuples(
            st.integers(BASE - 64, BASE + 2 * REGION + 64),
            st.integers(0, 300),
            st.sampled_from([0, 1, 2, 3, 4, 5, 7]),
            st.integers(0, SIZE),
        ),
        min_size=SIZE,
        max_size=SIZE,
    )
)
def test_nearly_valid_tables_give_guest_memory_or_a_fault(
    descriptors: list[tuple[int, int, int, int]],
) -> None:
    for i, descriptor in enumerate(descriptors):
        _shared.describe(i, *descriptor)
    _check_inside(_shared.walk(0, chain.EITHER))


def _check_inside(result: list[tuple[int, int]] | Fault) -> None:
    if isinstance(result, Fault):
        assert result != Fault.NONE
        return
    for base, length in result:
        assert length > 0
        assert any(
            half.ctypes.data <= base and base + length <= half.ctypes.data + REGION for half in _shared.halves
        )
