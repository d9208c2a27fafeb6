"""As many pieces of guest memory as QEMU can plug in: more than one message can bring the descriptors of."""

import itertools
import os
from dataclasses import replace

import pytest

from mpnet.control.desired import Desired
from mpnet.rpc.channel import MAX_FDS
from mpnet.rpc.worker import Done, Failed, SetMemory
from mpnet.segment.layout import MAX_MEMORY_SLOTS
from mpnet.vhost_user.effects import MemoryRegion
from mpnet.vhost_user.messages import RegionDescription, pack_single_region
from mpnet.vhost_user.state import Offer
from tests.backend_peer import ACK, NACK, OFFERED, Peer, R
from tests.test_datapath import frame
from tests.worker_harness import HEADER_BYTES, Harness

_PAGE = 4096


def slots(harness: Harness, count: int, fd: int) -> list[MemoryRegion]:
    """The guest's memory, and one-page pieces of a file behind it."""
    own = list(harness.memory.regions)
    base = own[0].guest_address + (1 << 30)
    more = (MemoryRegion(base + n * 2 * _PAGE, _PAGE, base + n * 2 * _PAGE, n * _PAGE, fd) for n in range(count))
    return [*own, *more]


def tell(harness: Harness, regions: list[MemoryRegion]) -> list[object]:
    """As control does."""
    return [harness.ask(message, fds) for message, fds in Desired((), regions=tuple(regions)).memory_errands()]


def test_a_worker_maps_every_slot_and_serves_on() -> None:
    fd = os.memfd_create("slots")
    os.truncate(fd, MAX_MEMORY_SLOTS * _PAGE)
    with Harness() as harness:
        harness.start()
        worker = harness.worker.ctx.worker[0]
        assert tell(harness, slots(harness, MAX_MEMORY_SLOTS - 1, fd)) == [Done()] * 3
        assert worker.regions == MAX_MEMORY_SLOTS
        address = harness.worker.ctx.regions[MAX_MEMORY_SLOTS - 1].host_address
        assert tell(harness, slots(harness, MAX_MEMORY_SLOTS - 1, fd)) == [Done()] * 3
        assert harness.worker.ctx.regions[MAX_MEMORY_SLOTS - 1].host_address == address, "it stays mapped"
        harness.sender.send([frame(60)])
        assert len(harness.tap.recv(1 << 17)) == 60 + HEADER_BYTES
        *_, refused = tell(harness, slots(harness, MAX_MEMORY_SLOTS, fd))
        assert isinstance(refused, Failed)
        assert worker.regions == MAX_MEMORY_SLOTS, "the last table stays"
    os.close(fd)


def test_a_table_counts_once_it_has_come_whole() -> None:
    fd = os.memfd_create("slots")
    os.truncate(fd, MAX_MEMORY_SLOTS * _PAGE)
    with Harness() as harness:
        worker = harness.worker.ctx.worker[0]
        whole = slots(harness, 300, fd)
        (first, fds), (last, more) = Desired((), regions=tuple(whole)).memory_errands()
        assert harness.ask(first, fds) == Done()
        assert worker.regions == 1
        beyond = replace(whole[-1], offset=1 << 40)
        broken = Desired((), regions=(*whole[:-1], beyond)).memory_errands()
        assert isinstance([harness.ask(message, passed) for message, passed in broken][-1], Failed)
        assert worker.regions == 1
        assert harness.ask(first, fds) == Done()
        assert harness.ask(last, more) == Done()
        assert worker.regions == 301
        assert harness.ask(SetMemory([]), []) == Done()
        assert worker.regions == 0
    os.close(fd)


@pytest.mark.parametrize(("count", "parts"), [(0, 1), (1, 1), (MAX_FDS, 1), (MAX_FDS + 1, 2), (509, 3)])
def test_a_table_comes_in_as_few_messages_as_can_bring_it(count: int, parts: int) -> None:
    regions = tuple(MemoryRegion(n, 1, n, n, n) for n in range(count))
    errands = Desired((), regions=regions).memory_errands()
    messages = [message for message, _ in errands if isinstance(message, SetMemory)]
    assert [(message.first, message.last) for message in messages] == [
        (number == 0, number == parts - 1) for number in range(parts)
    ]
    assert list(itertools.chain(*(fds for _, fds in errands))) == list(range(count))
    assert [region.offset for message in messages for region in message.regions] == list(range(count))


def test_a_front_end_is_told_of_every_slot_and_may_use_it() -> None:
    peer = Peer(Offer(OFFERED))
    peer.negotiate()
    assert peer.request(R.GET_MAX_MEM_SLOTS) == [MAX_MEMORY_SLOTS.to_bytes(8, "little")]
    for number in range(MAX_MEMORY_SLOTS + 1):
        region = RegionDescription(number * 8192, 4096, 1 << 40 | number * 8192, 0)
        answer = peer.request(R.ADD_MEM_REG, pack_single_region(region), (1000 + number,), need_reply=True)[-1]
        assert answer == (NACK if number == MAX_MEMORY_SLOTS else ACK)
