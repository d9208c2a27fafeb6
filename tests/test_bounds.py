"""Each bound of the data path, at the bound and one beyond, and who is told what.

Runs interpreted alone, by ``test_interpreted.py``: one worker, driven by hand, and rings as no driver would write
them.
"""

import os
import struct
from typing import Any

import numpy as np
import pytest

from mpnet.guest.chain import PLAIN, Arena, Layout
from mpnet.guest.frame import Frame, NetHeader
from mpnet.guest.virtqueue import NOTHING, add, notify, request_call, suppress_calls, take
from mpnet.jit.compile import JIT
from mpnet.segment.layout import LOG_ENTRIES, SPILL_BYTES, DropReason, Fault, RingState
from mpnet.virtio import packed_ring
from mpnet.virtio.features import Feature, mask
from mpnet.virtio.split_ring import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE
from mpnet.workers import chain, packed, ring
from mpnet.workers.chain import EITHER, READABLE, WRITABLE, find_region, translate_single
from mpnet.workers.control_queue import complete_command, take_command
from mpnet.workers.echo import echo
from mpnet.workers.receive import receive
from mpnet.workers.state import ALL_WHOLE, BURST_SEGMENTS, MAX_IOVECS, MAX_SEGMENTS, Context
from mpnet.workers.transmit import transmit
from tests.quirky_stream import Flow
from tests.segmenter import Packet, segment
from tests.stepping import Stepped, Steps
from tests.superframes import Kind, superframe
from tests.test_chain import BASE, REGION, SIZE, Guest
from tests.test_datapath import PACKED, deliver, frame
from tests.test_segmentation import put_on_tap
from tests.test_stepping import on_the_tap
from tests.worker_harness import FEATURES, HEADER_BYTES

__test__ = not JIT

BOTH = pytest.mark.parametrize("features", [FEATURES, PACKED], ids=["split", "packed"])
NO_EVENT = ~mask(Feature.RING_EVENT_IDX)
NO_MERGE = FEATURES & ~mask(Feature.MRG_RXBUF)
NO_CSUM = FEATURES & ~mask(Feature.GUEST_CSUM)
END = BASE + 2 * REGION


class Device(Stepped):
    """A started device that is served when the test says so."""

    def __init__(self, entries: int = 8, features: int = FEATURES, **options: Any) -> None:
        super().__init__(Steps(0), entries=entries, features=features, sizes=(16 << 20,), **options)
        self.start()
        self.arena = Arena(self.memory, 4 << 20, packed=self.tx.packed)

    def offer(self, data: bytes, layout: Layout = PLAIN) -> int:
        """Make a frame, header included, available; its head."""
        buffer = self.arena.place(len(data), layout, writable=False)
        assert buffer is not None
        self.arena.fill(buffer, data)
        return self._add(self.tx.virtqueue, buffer.chain)

    def post(self, size: int, layout: Layout = PLAIN) -> int:
        """Make a buffer for a frame available; its head."""
        buffer = self.arena.place(size, layout, writable=True)
        assert buffer is not None
        return self._add(self.rx.virtqueue, buffer.chain)

    def _add(self, virtqueue: Any, rows: Any) -> int:
        head = add(virtqueue, rows, len(rows))
        assert head != NOTHING
        notify(virtqueue)
        return head

    def send(self, *frames: Frame, layout: Layout = PLAIN) -> None:
        for each in frames:
            self.offer(each.header.pack(HEADER_BYTES) + each.data, layout)
        self.serve()

    def returned(self, queue: Any) -> list[tuple[int, int]]:
        return list(iter(lambda: take(queue.virtqueue), (NOTHING, 0)))


# Chains.


@pytest.fixture
def guest() -> Guest:
    made = Guest()
    made.table = np.zeros(16 * (SIZE + 1), np.uint8)  # with room behind it for what must not be read
    made.ctx.rings[0].descriptors = made.table.ctypes.data
    return made


def make_available(guest: Guest, head: int) -> None:
    guest.avail = np.zeros(6 + 2 * SIZE, np.uint8)  # type: ignore[attr-defined]  # kept alive there
    record = guest.ctx.rings[0]
    record.avail, record.cursor, record.limit = guest.avail.ctypes.data, 0, 1  # type: ignore[attr-defined]
    guest.avail[4:6].view(np.uint16)[0] = head  # type: ignore[attr-defined]


@pytest.mark.parametrize("head", [SIZE - 1, SIZE])
def test_no_descriptor_behind_the_table_is_read(guest: Guest, head: int) -> None:
    guest.describe(head, BASE, 60)
    make_available(guest, head)
    end = ring.take(guest.ctx, 0, 0, READABLE)
    assert (end, guest.ctx.worker[0].fault) == ((1, 0) if head < SIZE else (-1, Fault.HEAD_RANGE))


@pytest.mark.parametrize("following", [SIZE - 1, SIZE])
def test_a_chain_goes_on_within_the_table(guest: Guest, following: int) -> None:
    guest.describe(0, BASE, 1, DESC_F_NEXT, following)
    guest.describe(following, BASE + 8, 2)
    walked = guest.walk()
    assert walked == Fault.NEXT_RANGE if following == SIZE else [length for _, length in walked] == [1, 2]


@pytest.mark.parametrize("size", [SIZE, SIZE + 1])
def test_a_chain_is_as_long_as_the_table_at_most(guest: Guest, size: int) -> None:
    for i in range(SIZE):
        following = DESC_F_NEXT if i + 1 < size else 0
        guest.describe(i, BASE + 8 * i, 1, following, (i + 1) % SIZE)
    walked = guest.walk()
    assert walked == Fault.CHAIN_LOOP if size > SIZE else len(walked) == SIZE


@pytest.mark.parametrize("more", [0, 1])
def test_an_indirect_chain_is_as_long_as_its_table_at_most(guest: Guest, more: int) -> None:
    for i in range(3):
        following = DESC_F_NEXT if i < 2 + more else 0
        guest.write(BASE + 16 * i, struct.pack("<QIHH", BASE + 256, 1, following, (i + 1) % 3))
    guest.describe(0, BASE, 48, DESC_F_INDIRECT)
    walked = guest.walk()
    assert walked == Fault.CHAIN_LOOP if more else len(walked) == 3


@pytest.mark.parametrize("excess", [0, 1])
def test_a_chain_has_four_gigabytes_at_most(guest: Guest, excess: int) -> None:
    guest.ctx.regions[1].length = 1 << 40  # nothing is accessed
    half = 1 << 31
    guest.describe(0, BASE + REGION, half, DESC_F_NEXT, 1)
    guest.describe(1, BASE + REGION, half - 1 + excess, DESC_F_NEXT, 2)
    guest.describe(2, BASE + REGION, 1)
    walked = guest.walk()
    assert walked == Fault.CHAIN_LENGTH if excess else sum(length for _, length in walked) == 1 << 32


@pytest.mark.parametrize("entries", [MAX_SEGMENTS, MAX_SEGMENTS + 1])
def test_an_indirect_table_has_as_many_descriptors_as_the_largest_ring(entries: int) -> None:
    fault = chain.indirect_fault(1, False, 0, 16 * entries)
    assert fault == (Fault.TOO_MANY_SEGMENTS if entries > MAX_SEGMENTS else Fault.NONE)


@pytest.mark.parametrize(
    ("address", "length", "region"),
    [
        (BASE, REGION, 0), (BASE, REGION + 1, None), (BASE - 1, 2, None), (BASE + 1, REGION - 1, 0),
        (BASE + 1, REGION, None), (BASE + REGION, REGION, 1), (END - 1, 1, 1), (END - 1, 2, None),
        (-8, 16, None), (BASE, 0, None),
    ],
)  # fmt: skip
def test_a_buffer_is_taken_at_once_only_where_all_of_it_is_in_the_region_last_used(
    guest: Guest, address: int, length: int, region: int | None
) -> None:
    guest.ctx.worker[0].last_region = region or 0
    end = translate_single(guest.ctx, address, length, 0, 0, READABLE)
    assert end == (0 if region is None else 1)


@pytest.mark.parametrize("flags", [DESC_F_NEXT, DESC_F_WRITE, DESC_F_INDIRECT])
def test_a_chain_that_is_another_is_walked(guest: Guest, flags: int) -> None:
    assert translate_single(guest.ctx, BASE, 8, flags, 0, READABLE) == 0
    assert translate_single(guest.ctx, BASE, 8, 0, 0, WRITABLE) == 0
    assert translate_single(guest.ctx, BASE, 8, DESC_F_WRITE, 0, WRITABLE) == 1


@pytest.mark.parametrize("slot", [MAX_IOVECS - 2, MAX_IOVECS - 1])
def test_the_last_slot_stays_free(guest: Guest, slot: int) -> None:
    """A header, or the spill, is put behind what was translated."""
    free = slot < MAX_IOVECS - 1
    assert translate_single(guest.ctx, BASE, 8, 0, slot, READABLE) == (slot + 1 if free else 0)
    assert chain.translate(guest.ctx, BASE, 8, slot) == (slot + 1 if free else -1)


def test_the_parts_of_a_chain_are_counted_by_direction(guest: Guest) -> None:
    guest.describe(0, BASE, 5, DESC_F_NEXT, 1)
    guest.describe(1, BASE + 8, 7, DESC_F_NEXT, 2)
    guest.describe(2, BASE + 16, 3, DESC_F_WRITE)
    guest.walk(direction=EITHER)
    worker = guest.ctx.worker[0]
    assert (worker.readable, worker.total, worker.descriptors) == (12, 15, 3)


def test_an_indirect_table_takes_one_descriptor_of_the_ring(guest: Guest) -> None:
    for i in range(3):
        guest.write(BASE + 16 * i, struct.pack("<QIHH", BASE + 256, 1, DESC_F_NEXT if i < 2 else 0, i + 1))
    guest.describe(0, BASE + 512, 1, DESC_F_NEXT, 1)
    guest.describe(1, BASE, 48, DESC_F_INDIRECT)
    guest.walk()
    assert guest.ctx.worker[0].descriptors == 2


# Rings.


@pytest.mark.parametrize("ahead", [0, 8, 9])
def test_a_split_index_is_as_far_ahead_as_the_ring_is_long_at_most(ahead: int) -> None:
    with Device() as device:
        device.memory.write(device.tx.guest.avail + 2, struct.pack("<H", ahead))
        assert ring.open_burst(device.ctx, 1) == (0 < ahead <= 8)
        shared = device.segment.rings[1]
        broken = (RingState.BROKEN, Fault.AVAIL_INDEX, 1)
        assert (shared.state, shared.fault, shared.faults) == (broken if ahead > 8 else (RingState.RUNNING, 0, 0))
        assert device.ctx.worker[0].broken == (ahead > 8)


@pytest.mark.parametrize("logged", [LOG_ENTRIES - 1, LOG_ENTRIES])
def test_a_packed_burst_takes_no_chain_that_its_log_has_no_room_for(logged: int) -> None:
    with Device(features=PACKED) as device:
        device.offer(bytes(HEADER_BYTES + 60))
        assert ring.open_burst(device.ctx, 1)
        device.ctx.rings[1].logged = logged
        assert ring.take(device.ctx, 1, 0, READABLE) == (1 if logged < LOG_ENTRIES else 0)


def test_used_descriptors_of_a_packed_ring_say_whether_they_were_written() -> None:
    with Device(features=PACKED) as device:
        device.post(200)
        deliver(device, frame(60).data)
        device.send(frame(60))
        for queue, written in ((device.rx, DESC_F_WRITE), (device.tx, 0)):
            flags = device.memory.read(queue.guest.descriptors + 14, 2)
            assert struct.unpack("<H", flags)[0] == packed_ring.used_flags(1) | written
            assert device.returned(queue) == [(0, 72 if written else 0)]


def test_a_packed_chain_that_wraps_for_ever_is_a_loop() -> None:
    with Device(entries=4, features=PACKED) as device:
        whole = struct.pack("<QIHH", device.memory.regions[0].guest_address, 8, 0, DESC_F_NEXT | 1 << 7)
        device.memory.write(device.tx.guest.descriptors, whole * 4)
        assert packed.walk_packed(device.ctx, 1, packed_ring.FIRST_CURSOR, 0, READABLE) == -1
        assert device.ctx.worker[0].fault == Fault.CHAIN_LOOP
        last = struct.pack("<QIHH", device.memory.regions[0].guest_address, 8, 3, 1 << 7)
        device.memory.write(device.tx.guest.descriptors + 48, last)
        assert packed.walk_packed(device.ctx, 1, packed_ring.FIRST_CURSOR, 0, READABLE) == 4
        assert (device.ctx.worker[0].span, device.ctx.worker[0].buffer_id) == (4, 3)


@BOTH
def test_a_driver_is_called_as_often_as_it_asks(features: int) -> None:
    """With EVENT_IDX it names the chain: what is returned before that, or long after, is no reason."""
    with Device(features=features) as device:
        shared = device.segment.rings[1]

        def told(*frames: Frame) -> tuple[int, int]:
            before = int(shared.calls), int(shared.calls_suppressed)
            device.send(*frames)
            assert len(device.returned(device.tx)) == len(frames)
            return int(shared.calls) - before[0], int(shared.calls_suppressed) - before[1]

        request_call(device.tx.virtqueue)
        assert told(frame(60)) == (1, 0)
        for _ in range(12):  # once round and more; twice round a packed ring's old wish is met again
            assert told(frame(60)) == (0, 1)
        request_call(device.tx.virtqueue)
        assert told(*[frame(60)] * 3) == (1, 0)
        assert told(*[frame(60)] * 5) == (0, 1)
        assert told(frame(60)) == (0, 1)
        wanted = device.tx.virtqueue.state[0]
        ahead = packed_ring.advance(wanted.used_cursor, 2, 8) if device.tx.packed else wanted.used_index + 2
        where = device.tx.guest.avail if device.tx.packed else device.tx.guest.avail + 4 + 2 * 8
        device.memory.write(where, struct.pack("<H", ahead))
        assert told(frame(60)) == (0, 1)
        assert told(frame(60)) == (0, 1)
        assert told(frame(60)) == (1, 0)


@BOTH
def test_a_driver_is_called_for_every_burst_or_for_none_without_event_index(features: int) -> None:
    with Device(features=features & NO_EVENT) as device:
        shared = device.segment.rings[1]
        calls, suppressed = int(shared.calls), int(shared.calls_suppressed)
        for _ in range(3):
            device.send(frame(60), frame(61))
            device.returned(device.tx)
        assert (shared.calls, shared.calls_suppressed) == (calls + 3, suppressed)
        suppress_calls(device.tx.virtqueue)
        for _ in range(3):
            device.send(frame(60), frame(61))
            device.returned(device.tx)
        assert (shared.calls, shared.calls_suppressed) == (calls + 3, suppressed + 3)


@BOTH
def test_a_kick_is_asked_for_at_the_chain_behind_those_looked_at(features: int) -> None:
    """Buffers that are too few for a frame are no news; the next one is."""
    with Device(features=features) as device:
        device.post(100)
        device.post(100)
        deliver(device, frame(60).data)
        deliver(device, frame(600).data)
        device.ctx.rings[0].batch = 8
        assert receive(device.ctx, 0) == 1
        assert not device.ctx.rings[0].ready
        if device.rx.packed:
            event = device.memory.read(device.rx.guest.used, 4)
            assert struct.unpack("<HH", event) == (packed_ring.FIRST_CURSOR | 2, packed_ring.EVENT_DESC)
        else:
            event = device.memory.read(device.rx.guest.used + 4 + 8 * 8, 2)
            assert struct.unpack("<H", event) == (2,)
        kicks = int(device.rx.virtqueue.state[0].kicks)
        device.post(1000)
        assert device.rx.virtqueue.state[0].kicks == kicks + 1
        device.serve()
        assert device.segment.rings[0].packets == 2


@BOTH
def test_no_kick_is_asked_for_while_there_is_work(features: int) -> None:
    with Device(features=features & NO_EVENT) as device:
        device.serve()
        ring.refuse_kicks(device.ctx, 1)
        device.offer(bytes(HEADER_BYTES + 60))
        assert device.tx.virtqueue.state[0].kicks == 0
        device.ctx.rings[1].ready = 1
        device.serve()
        device.offer(bytes(HEADER_BYTES + 60))
        assert device.tx.virtqueue.state[0].kicks == 1


def test_frames_of_the_tap_are_no_kicks() -> None:
    with Device() as device:
        device.post(200)
        device.post(200)
        device.serve()
        kicks = int(device.segment.rings[0].kicks)
        assert kicks <= 1
        for _ in range(2):
            deliver(device, frame(60).data)
            device.serve()
        assert (device.segment.rings[0].packets, device.segment.rings[0].kicks) == (2, kicks)
        os.eventfd_write(device.tx.ring.kick_fd or 0, 1)
        before = int(device.segment.rings[1].kicks)
        device.serve()
        assert device.segment.rings[1].kicks == before + 1


def test_a_split_ring_begins_where_its_used_index_stands() -> None:
    """A back-end that died without being asked for a base leaves its front-end with an old one."""
    with Device() as device:
        state = device.tx.virtqueue.state[0]
        device.memory.write(device.tx.guest.used + 2, struct.pack("<H", 3))
        state.avail_index = state.used_index = state.used_seen = state.notified = 3
        device.start(1)
        device.send(frame(60))
        assert device.memory.read(device.tx.guest.used + 2, 2) == struct.pack("<H", 4)
        assert [got.data for got in on_the_tap(device)] == [frame(60).data]


def test_a_frame_that_waits_for_buffers_is_the_present_drivers_alone() -> None:
    with Device() as device:
        deliver(device, frame(600).data)
        device.post(100)
        device.serve()
        shared = device.segment.rings[0]
        assert shared.spilled == 600 + HEADER_BYTES
        device.rx.reset()
        device.start()
        assert (shared.spilled, shared.drops[DropReason.DISABLED]) == (0, 1)
        device.post(1000)
        deliver(device, frame(61).data)
        device.serve()
        assert [length for _, length in device.returned(device.rx)] == [61 + HEADER_BYTES]


@pytest.mark.parametrize(
    ("taken", "whole"),
    [
        ((), 0b1),
        ((Feature.GUEST_TSO4,), 0b11),
        ((Feature.GUEST_TSO6,), 0b10001),
        ((Feature.GUEST_USO4,), 0b1),
        ((Feature.GUEST_USO6,), 0b1),
        ((Feature.GUEST_USO4, Feature.GUEST_USO6), 0b100001),
        ((Feature.GUEST_TSO4, Feature.GUEST_ECN), 0b10000011),
    ],
)
def test_a_driver_gets_whole_what_it_takes(taken: tuple[Feature, ...], whole: int) -> None:
    with Device(features=FEATURES | mask(*taken)) as device:
        assert device.ctx.rings[0].whole == whole
        device.segmenting = False
        device.start(None)
        assert device.ctx.rings[0].whole == ALL_WHOLE


def test_memory_that_is_taken_away_is_translated_no_more() -> None:
    """Neither is the region that was used last, nor the first one of a table that is empty."""
    with Stepped(Steps(0), sizes=(8 << 20, 1 << 20)) as device:
        first, second = device.memory.regions
        device.start()
        assert find_region(device.ctx, second.guest_address) == 1
        device.memory.regions = (first,)
        device.set_memory()
        assert find_region(device.ctx, second.guest_address) == -1
        assert find_region(device.ctx, first.guest_address) == 0
        assert translate_single(device.ctx, first.guest_address, 8, 0, 0, READABLE) == 1
        device.memory.regions = ()
        device.set_memory()
        assert find_region(device.ctx, first.guest_address) == -1
        assert translate_single(device.ctx, first.guest_address, 8, 0, 0, READABLE) == 0
        device.memory.regions = (first, second)


# rx.


def header_of(device: Device, head: int, address: int) -> NetHeader:
    assert head >= 0
    return NetHeader.unpack(device.memory.read(address, HEADER_BYTES))


@pytest.mark.parametrize("segmenting", [True, False], ids=["gso", "no gso"])
@pytest.mark.parametrize("room", [200, 5], ids=["in one buffer", "in many"])
def test_flags_are_cleared_for_a_driver_without_guest_csum(
    monkeypatch: pytest.MonkeyPatch, segmenting: bool, room: int
) -> None:
    with Device(entries=32, features=NO_CSUM) as device:
        device.segmenting = segmenting
        device.start(None)
        device.receiver.post(room, 20)
        device.tap.send(NetHeader(flags=2).pack(HEADER_BYTES) + frame(60).data)
        device.serve()
        data = b""
        while (used := device.rx.take()) is not None:
            data += device.receiver._arena.contents(device.receiver._posted[used[0]], used[1])
        header = NetHeader.unpack(data[:HEADER_BYTES])
        assert (header.flags, data[HEADER_BYTES:]) == (0, frame(60).data)


@pytest.mark.parametrize(
    ("descriptors", "given", "dropped"),
    [(1, 4, True), (1, 3, False), (2, 2, True), (2, 1, False), (3, 1, True)],
)
def test_a_frame_is_dropped_only_where_no_further_chain_has_room(
    descriptors: int, given: int, dropped: bool
) -> None:
    """A ring of four: where one more like the last would do, it is waited for."""
    with Device(entries=4) as device:
        layout = Layout((8,) * (descriptors - 1))
        for _ in range(given):
            device.post(40, layout)
        deliver(device, frame(40 * given + 1 - HEADER_BYTES).data)
        device.serve()
        shared = device.segment.rings[0]
        assert shared.drops[DropReason.TOO_LONG] == dropped
        assert (shared.spilled == 0) == dropped


@pytest.mark.parametrize("size", [SPILL_BYTES - HEADER_BYTES, SPILL_BYTES - HEADER_BYTES + 1])
def test_a_frame_is_as_long_as_the_spill_at_most(size: int) -> None:
    with Device(entries=4) as device:
        device.post(2 * SPILL_BYTES)
        deliver(device, bytes(size))
        device.serve()
        shared = device.segment.rings[0]
        fits = size + HEADER_BYTES <= SPILL_BYTES
        assert (shared.packets, shared.drops[DropReason.TOO_LONG]) == ((1, 0) if fits else (0, 1))


@pytest.mark.parametrize("more", [0, 1])
def test_a_checksum_is_finished_only_where_there_is_room_for_it(more: int) -> None:
    """Where the header puts it behind the frame, nothing is written there: it may be another's."""
    with Device(features=NO_CSUM) as device:
        device.post(400)
        data = frame(60).data
        device.tap.send(NetHeader(flags=1, csum_start=34, csum_offset=24 + more).pack(HEADER_BYTES) + data)
        device.serve()
        ((head, length),) = device.returned(device.rx)
        assert length == HEADER_BYTES + 60
        address = device.arena._start
        got = device.memory.read(address + HEADER_BYTES, 62)
        if more:
            assert got[:60] == data
        else:
            packet = Packet(1, 0, 0, 0, 34, 24, data)
            assert got[:60] == segment(packet)[0]
        assert header_of(device, head, address).flags == 0


def udp_that_adds_up_to_zero(kind: Kind, size: int) -> Packet:
    """A superframe whose first segment's checksum is all zeros, which UDP writes as all ones."""
    payload = bytearray(3 * size)
    packet = superframe(kind, size, bytes(payload))
    first = segment(packet)[0]
    field = packet.start + 6
    # A word that makes up for what the checksum is: sums then add to all ones.
    payload[:2] = first[field : field + 2]
    packet = superframe(kind, size, bytes(payload))
    assert segment(packet)[0][field : field + 2] == b"\xff\xff"
    return packet


@pytest.mark.parametrize("ipv6", [False, True])
def test_a_datagrams_checksum_of_zero_is_written_as_ones(ipv6: bool) -> None:
    with Device(features=NO_CSUM) as device:
        packet = udp_that_adds_up_to_zero(Kind(tcp=False, ipv6=ipv6), 100)
        device.receiver.post(400, 8)
        put_on_tap(device, packet)
        device.serve()
        assert [got.data for got in device.receiver.receive(3, 0)] == segment(packet)


# tx.


@pytest.mark.parametrize("pieces", [1022, 1023, 1024, 1025])
@pytest.mark.parametrize("coalesce", [True, False], ids=["gro", "no gro"])
def test_a_frame_in_as_many_pieces_as_writev_takes_or_more_arrives(pieces: int, coalesce: bool) -> None:
    with Device(entries=2048) as device:
        device.coalescing = coalesce
        device.start(None)
        sent = frame(1514)
        device.send(sent, layout=Layout((HEADER_BYTES, *(1,) * (pieces - 1))))
        assert [got.data for got in on_the_tap(device)] == [sent.data]
        assert sum(device.segment.rings[1].drops) == 0


@pytest.mark.parametrize(("tcp", "ipv6"), [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("excess", [0, 1])
def test_a_superframe_is_an_ip_packet_of_65535_bytes_at_most(tcp: bool, ipv6: bool, excess: int) -> None:
    flow = Flow(1, tcp, ipv6)
    headers = len(flow.frame().data) - flow.size - 14
    flow = Flow(1, tcp, ipv6, size=(65535 - headers) // 2)
    frames = [flow.frame(), flow.frame()]
    flow.size = 65535 - headers - 2 * flow.size + excess
    frames += [flow.frame()] if flow.size else []
    room = 65535 - headers
    with Device(entries=16) as device:
        device.send(*frames)
        lengths = []
        device.tap.setblocking(False)
        try:
            while True:
                lengths.append(len(device.tap.recv(1 << 17)) - HEADER_BYTES - 14 - headers)
        except BlockingIOError:
            pass
        assert sum(lengths) == sum(len(each.data) - 14 - headers for each in frames)
        assert max(lengths) == (room if not excess else room // 2 * 2)


def test_a_burst_of_long_chains_ends_early() -> None:
    """It walks no more descriptors than its bound, and one chain."""
    with Device(entries=8) as device:
        for _ in range(3):
            device.offer(bytes(SPILL_BYTES), Layout((1,) * BURST_SEGMENTS, 0))
        shared = device.segment.rings[1]
        assert [transmit(device.ctx, 1) for _ in range(3)] == [1, 1, 1]
        assert shared.packets == 3


# The control queue.


def control_ring(context: Context) -> int:
    return len(context.rings) - 1


def test_an_answer_that_the_guest_took_the_room_of_breaks_the_ring() -> None:
    """Where it makes its chain shorter while control carries the command out, nothing is written behind that."""
    with Device() as device:
        index = control_ring(device.ctx)
        target = device.worker._scratch.allocate(1 << 16)
        record, template = device.ctx.rings[index], device.ctx.rings[1]
        queue = device.tx
        for name in ("descriptors", "avail", "used", "entries", "indirect"):
            setattr(record, name, getattr(template, name))
        record.started = record.enabled = record.ready = 1
        record.kick_fd = record.call_fd = record.err_fd = -1
        place = device.memory.allocate(64)
        device.memory.write(place, b"\x01\x02ab" + b"\xee" * 8)
        table = struct.pack("<QIHH", place, 4, DESC_F_NEXT, 1) + struct.pack(
            "<QIHH", place + 4, 1, DESC_F_WRITE, 0
        )
        device.memory.write(queue.guest.descriptors, table)
        device.memory.write(queue.guest.avail, struct.pack("<HHH", 0, 1, 0))
        assert take_command(device.ctx, index, target) == 4
        device.memory.write(queue.guest.descriptors, struct.pack("<QIHH", place, 4, 0, 0))
        complete_command(device.ctx, index, 0)
        assert device.memory.read(place, 12) == b"\x01\x02ab" + b"\xee" * 8
        shared = device.segment.rings[index]
        assert (shared.state, shared.fault) == (RingState.BROKEN, Fault.DIRECTION)


# Echo.


@BOTH
def test_a_frame_that_fits_once_the_burst_is_shown_is_not_dropped(features: int) -> None:
    """The ring has no room for a second chain like the last; the driver gets one back that takes less."""
    with Device(entries=4, features=features, backend="echo") as device:
        device.post(80)
        device.post(90, Layout((12, 3)))
        for size in (60, 100):
            device.offer(bytes(HEADER_BYTES) + frame(size).data)
        assert echo(device.ctx, 0) == 1
        assert len(device.returned(device.rx)) == 1
        device.post(80)
        device.serve()
        assert device.segment.rings[0].packets == 2
        assert sum(device.segment.rings[1].drops) == 0
