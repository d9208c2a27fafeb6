"""What a worker makes of what it is told about rings and memory, whoever told it: refused, mapped, or lost."""

import ctypes
import os
import struct
from contextlib import suppress
from pathlib import Path

import pytest

from mpnet.guest.queue import Queue
from mpnet.rpc.worker import Done, Failed, Region, RingBroken, SetMemory, SetRing
from mpnet.segment.layout import LOG_ENTRIES, LOG_ENTRY_BYTES, SPILL_BYTES, DropReason, Fault, RingState
from mpnet.virtio import net_header
from mpnet.virtio.features import Feature, mask
from mpnet.virtio.packed_ring import FIRST_CURSOR, available_flags, make_handover, used_flags
from mpnet.workers.chain import find_region, translate, translate_single
from mpnet.workers.packed import make_place
from mpnet.workers.ring import _start_ahead, look_again, open_burst
from mpnet.workers.rings import _taken_whole
from tests.test_datapath import PACKED, deliver, frame
from tests.worker_harness import FEATURES, HEADER_BYTES, Harness

ENTRIES = 16
PAGE = 4096


def contents(harness: Harness, queue: Queue) -> bytes:
    return harness.memory.read(queue.guest.descriptors, 16 * ENTRIES)


def note(harness: Harness, number: int, entry: int) -> None:
    """Put a chain into the log of the tx ring."""
    ctypes.c_int64.from_address(harness.segment.log_address(1) + LOG_ENTRY_BYTES * number).value = entry


@pytest.mark.parametrize("base", [ENTRIES, 0x7FFF, 0x8000 | ENTRIES])
def test_a_packed_ring_does_not_begin_beyond_its_end(base: int) -> None:
    with Harness(entries=ENTRIES, features=PACKED) as harness:
        answer = harness.set_ring(harness.tx, base)
        assert isinstance(answer, Failed)
        assert f"is none in a ring of {ENTRIES} descriptors" in answer.problem
        harness.start()
        harness.sender.send([frame(60)])
        assert len(harness.tap.recv(1 << 17)) == 60 + HEADER_BYTES


LOGS = {
    "a place beyond the end": (make_place(FIRST_CURSOR | ENTRIES, FIRST_CURSOR, 0), []),
    "a burst that began beyond the end": (make_place(FIRST_CURSOR, ENTRIES | 0x8000, 1), [1]),
    "more chains than are noted": (make_place(FIRST_CURSOR | 1, FIRST_CURSOR, LOG_ENTRIES + 1), [1]),
    "fewer than none": (make_place(FIRST_CURSOR | 1, FIRST_CURSOR, -1), [1]),
    "a chain longer than the ring": (make_place(FIRST_CURSOR | 1, FIRST_CURSOR, 1), [ENTRIES + 1]),
    "a chain of nothing": (make_place(FIRST_CURSOR, FIRST_CURSOR, 1), [0]),
    "chains longer than the ring": (make_place(FIRST_CURSOR | 1, FIRST_CURSOR, 2), [ENTRIES, 1]),
    "chains that end elsewhere": (make_place(FIRST_CURSOR | 3, FIRST_CURSOR, 2), [1, 1]),
}


@pytest.mark.parametrize(("place", "spans"), LOGS.values(), ids=LOGS.keys())
def test_nothing_is_replayed_that_cannot_have_happened(place: int, spans: list[int]) -> None:
    """Shared memory has other writers: what it says of a dead worker's last burst is checked."""
    with Harness(entries=ENTRIES, features=PACKED) as harness:
        harness.start()
        available = struct.pack("<QIHH", 0, 60, 0, available_flags(1))
        harness.memory.write(harness.tx.guest.descriptors, available * ENTRIES)
        before = contents(harness, harness.tx)
        for number, span in enumerate(spans):
            note(harness, number, make_handover(60, 3, span))
        harness.segment.rings[1].place = place
        assert isinstance(harness.set_ring(harness.tx, None), Failed)
        assert contents(harness, harness.tx) == before
        assert harness.segment.rings[1].place == place
        assert harness.segment.rings[1].state == RingState.STOPPED, "and it says that nobody serves it"


def test_what_a_dead_worker_noted_is_replayed() -> None:
    with Harness(entries=ENTRIES, features=PACKED) as harness:
        available = struct.pack("<QIHH", 0, 60, 0, available_flags(1))
        harness.memory.write(harness.tx.guest.descriptors, available * 3)
        for number, (buffer_id, span) in enumerate(((3, 2), (4, 1))):
            note(harness, number, make_handover(0, buffer_id, span))
        harness.segment.rings[1].place = make_place(FIRST_CURSOR | 3, FIRST_CURSOR, 2)
        assert harness.set_ring(harness.tx, None) == Done()
        ring = struct.unpack("<" + 3 * "QIHH", contents(harness, harness.tx)[:48])
        used, left = used_flags(1), available_flags(1)
        assert [ring[at : at + 3] for at in (1, 5, 9)] == [(0, 3, used), (60, 0, left), (0, 4, used)]


@pytest.mark.parametrize(("spilled", "done"), [(SPILL_BYTES + 1, 0), (-1, 0), (100, 101), (100, -1)])
def test_no_frame_waits_that_cannot(spilled: int, done: int) -> None:
    with Harness(entries=ENTRIES) as harness:
        harness.start()
        shared = harness.segment.rings[0]
        shared.spilled, shared.spill_done = spilled, done
        harness.set_ring(harness.rx, None)
        assert (shared.spilled, shared.drops[DropReason.BROKEN]) == (0, 1)


def test_a_frame_that_waited_for_one_guest_does_not_go_to_the_next() -> None:
    with Harness(entries=ENTRIES) as harness:
        harness.start()
        shared = harness.segment.rings[0]
        shared.spilled = 100
        harness.set_ring(harness.rx, None)
        assert shared.spilled == 100, "a replacement delivers it"
        harness.set_ring(harness.rx, 0)
        assert (shared.spilled, shared.drops[DropReason.DISABLED]) == (0, 1)


def test_a_split_ring_goes_on_where_it_says_and_not_where_it_is_told_to() -> None:
    """A back-end that died told nobody where it was: QEMU and DPDK name where the last session began."""
    with Harness(entries=ENTRIES) as harness:
        harness.start()
        for number in range(3):
            harness.sender.send([frame(60 + number)])
            harness.tap.recv(1 << 17)
        harness.set_ring(harness.tx, 0)
        assert harness.segment.rings[1].place == 3
        harness.sender.send([frame(90)])
        assert len(harness.tap.recv(1 << 17)) == 90 + HEADER_BYTES


@pytest.mark.parametrize("family", [Feature.GUEST_USO4, Feature.GUEST_USO6])
def test_udp_is_given_whole_to_a_driver_that_takes_both_families(family: Feature) -> None:
    """The TAP's header does not say which of the two a UDP superframe is."""
    whole = 1 << net_header.GSO_UDP_L4
    assert not _taken_whole(mask(family)) & whole
    assert _taken_whole(mask(Feature.GUEST_USO4, Feature.GUEST_USO6)) & whole


@pytest.mark.parametrize(
    ("index", "kind"), [(1, "file"), (1, "folder"), (2, "file"), (2, "folder"), (2, "nothing")]
)
def test_a_kick_that_cannot_be_waited_for_is_refused(tmp_path: Path, index: int, kind: str) -> None:
    """Control does not pass on such; a worker that did not expect it would die each time it is replaced."""
    with Harness(entries=ENTRIES) as harness:
        fds = []
        if kind != "nothing":
            target = tmp_path if kind == "folder" else tmp_path / "file"
            target.exists() or target.touch()
            fds.append(os.open(target, os.O_RDONLY))
        ring = harness.tx.ring
        addresses = (ring.descriptor_address, ring.avail_address, ring.used_address)
        spec = SetRing(index, ENTRIES, *addresses, FEATURES, True, bool(fds), False, False, base=0)
        answer = harness.ask(spec, fds, ours=True)
        assert isinstance(answer, Failed)
        assert answer.problem
        harness.start()
        harness.sender.send([frame(60)])
        assert len(harness.tap.recv(1 << 17)) == 60 + HEADER_BYTES


def test_a_burst_goes_on_with_nothing_that_was_taken_already() -> None:
    with Harness(entries=ENTRIES) as harness:
        harness.start()
        context = harness.worker.ctx
        ring = context.rings[1]
        avail = harness.tx.guest.avail
        assert not open_burst(context, 1)
        harness.memory.write(avail + 2, struct.pack("<H", 9))
        look_again(context, 1)
        ring.cursor = 9
        for behind in (8, 1, 0):
            harness.memory.write(avail + 2, struct.pack("<H", behind))
            look_again(context, 1)
            assert ring.limit == 9
        ring.cursor = 0
        harness.memory.write(avail + 2, struct.pack("<H", 0))


@pytest.mark.parametrize("features", [FEATURES, PACKED])
def test_no_address_outside_guest_memory_is_fetched_ahead(features: int) -> None:
    """How long a prefetch takes tells whether an address is mapped: of the kernel, or of this process."""
    with Harness(entries=ENTRIES, features=features) as harness:
        harness.start()
        context = harness.worker.ctx
        region = context.regions[0]
        start, end = int(region.guest_address), int(region.guest_address + region.length)
        for address in (0, start - 1, end, 1 << 46, -1 << 46, 2**63 - 1, -(2**63)):
            harness.memory.write(harness.tx.guest.descriptors, struct.pack("<qIHH", address, 60, 0, 0) * ENTRIES)
            assert _start_ahead(context, 1) == region.host_address
        harness.memory.write(harness.tx.guest.descriptors, struct.pack("<qIHH", end - 1, 60, 0, 0) * ENTRIES)
        assert _start_ahead(context, 1) == region.host_address + region.length - 1


def test_nothing_is_translated_by_a_region_that_went() -> None:
    with Harness(entries=ENTRIES, sizes=(16 << 20, 16 << 20)) as harness:
        context = harness.worker.ctx
        first, second = harness.memory.regions
        end = translate(context, second.guest_address, 100, 0)
        assert (end, context.worker[0].last_region) == (1, 1)
        table = [Region(r.guest_address, r.size, r.user_address, r.offset) for r in (first,)]
        assert harness.ask(SetMemory(table), [first.fd]) == Done()
        assert translate_single(context, second.guest_address, 100, 0, 0, 0) == 0
        assert translate(context, second.guest_address, 100, 0) == -1
        assert translate_single(context, first.guest_address, 100, 0, 0, 0) == 1
        assert harness.ask(SetMemory([]), []) == Done()
        assert translate_single(context, first.guest_address, 100, 0, 0, 0) == 0
        assert find_region(context, first.guest_address) == -1


def cut(harness: Harness, size: int) -> None:
    os.ftruncate(harness.memory.fd, size)


def kick(queue: Queue) -> None:
    assert queue.ring.kick_fd is not None
    os.eventfd_write(queue.ring.kick_fd, 1)


BOTH = [RingBroken(0, Fault.MEMORY_LOST), RingBroken(1, Fault.MEMORY_LOST)]


@pytest.mark.parametrize("features", [FEATURES, PACKED], ids=["split", "packed"])
def test_rings_that_are_lost_break_though_there_is_nothing_in_them(features: int) -> None:
    """What stands in their place is zeros: no chain, no fault, and no news for ever."""
    with Harness(entries=ENTRIES, backing="shm", features=features) as harness:
        harness.start()
        cut(harness, 0)
        kick(harness.tx)
        reports = [harness.next_report(), harness.next_report()]
        assert sorted(reports, key=lambda report: report.index) == BOTH
        assert [ring.state for ring in harness.segment.rings[:2]] == [RingState.BROKEN] * 2


def test_memory_that_was_lost_is_mapped_anew_by_the_same_table() -> None:
    with Harness(entries=ENTRIES, backing="shm") as harness:
        size = harness.memory.regions[0].size
        harness.start()
        cut(harness, 0)
        kick(harness.tx)
        assert {type(harness.next_report()) for _ in range(2)} == {RingBroken}
        cut(harness, size)
        answer = harness.set_ring(harness.tx)
        assert isinstance(answer, Failed), "not as long as the old mapping is in place"
        assert "was lost" in answer.problem
        harness.set_memory()
        for queue in (harness.rx, harness.tx):
            queue.reset()
        assert harness.start() == [Done(), Done()]
        harness.sender.send([frame(60)])
        assert len(harness.tap.recv(1 << 17)) == 60 + HEADER_BYTES
        harness.receiver.post(1526, 4)
        deliver(harness, frame(60).data)
        assert harness.receiver.receive()[0].data == frame(60).data


def test_what_one_guest_lost_breaks_no_ring_of_the_next() -> None:
    with Harness(entries=ENTRIES, backing="shm") as harness:
        size = harness.memory.regions[0].size
        harness.start()
        harness.ask_to_stop(0, 1)
        cut(harness, 0)
        # Touched by the worker between its bursts, with no ring started.
        ctypes.string_at(int(harness.worker.ctx.regions[0].host_address), 1)
        cut(harness, size)
        harness.set_memory()
        for queue in (harness.rx, harness.tx):
            queue.reset()
        harness.start()
        harness.sender.send([frame(60)])
        assert len(harness.tap.recv(1 << 17)) == 60 + HEADER_BYTES
        assert harness.reports == []


def test_guest_memory_is_in_no_core_file() -> None:
    with Harness(entries=ENTRIES) as harness:
        mapped = [f"{harness.worker.ctx.regions[0].host_address:x}", f"{harness.segment.address:x}"]
        for address in mapped:
            assert "dd" in flags(address)


def flags(address: str) -> list[str]:
    """``VmFlags`` of the mapping that begins at an address (proc(5))."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.startswith(f"{address}-"):
            break
    with suppress(StopIteration):
        while not (line := next(lines)).startswith("VmFlags:"):
            pass
    return line.split()[1:]


def test_a_service_leaves_no_core_file() -> None:
    """What frames a worker copies for itself would be in it."""
    unit = Path(__file__).parent.parent / "packaging" / "systemd" / "mpnet@.service"
    assert "LimitCORE=0" in unit.read_text().splitlines()
