"""Everything the back-end refuses: with a reason, by a nack or by closing, and changing nothing."""

import pytest

from mpnet.vhost_user.backend import Backend
from mpnet.vhost_user.effects import Close, CloseFds, MemoryRegion, Send
from mpnet.vhost_user.frontend import Frontend
from mpnet.vhost_user.messages import (
    NEED_REPLY_FLAG,
    REPLY_FLAG,
    SUPPORTED_PROTOCOL_FEATURES,
    U64,
    VERSION,
    ConfigSpace,
    Message,
    RegionDescription,
    Request,
    VringAddress,
    VringState,
    pack_regions,
    pack_single_region,
)
from mpnet.vhost_user.state import Offer
from mpnet.virtio.features import Feature, mask

R = Request
BASE = 0x7F0000000000
MEMORY = RegionDescription(0, 1 << 20, BASE, 0)
OFFERED = mask(Feature.VERSION_1, Feature.MQ)


def nack(request):
    return Send(Message(request, U64(1).pack(), flags=VERSION | REPLY_FLAG).pack())


@pytest.fixture
def backend():
    """A back-end with protocol features negotiated and memory shared."""
    machine, front_end = Backend(Offer(OFFERED, queue_pairs=2), bytes(24)), Frontend()
    for call in (
        front_end.set_u64(R.SET_PROTOCOL_FEATURES, SUPPORTED_PROTOCOL_FEATURES),
        front_end.set_u64(R.SET_FEATURES, OFFERED | 1 << 30),
        front_end.set_mem_table([MemoryRegion(0, 1 << 20, BASE, 0, 100)]),
    ):
        machine.receive(call.message)
        machine.done()
    return machine


def vring(index, num):
    return VringState(index, num).pack()


def addr(index, descriptor=BASE, used=BASE + 0x3000, available=BASE + 0x2000):
    return VringAddress(index, 0, descriptor, used, available, 0).pack()


def region(**kwargs):
    fields = {"guest_address": 1 << 32, "size": 4096, "user_address": 1 << 40, "offset": 0} | kwargs
    return pack_single_region(RegionDescription(**fields))


NINE = pack_regions(tuple(RegionDescription(i << 20, 4096, i << 20, 0) for i in range(9)))
OVERLAPPING = pack_regions((MEMORY, RegionDescription(0xFFFFF, 4096, 1 << 40, 0)))

REFUSALS = [
    (R.SET_FEATURES, U64(1 << 60 | 1 << 4).pack(), (), "not offered: bit_4, RSS"),
    (R.SET_PROTOCOL_FEATURES, U64(1 << 1 | 1 << 40).pack(), (), "not offered: LOG_SHMFD, bit_40"),
    (R.SET_VRING_NUM, vring(3, 48), (), "ring 3: size 48 is not a power of two (VIRTIO 2.7)"),
    (R.SET_VRING_NUM, vring(0, 0), (), "size 0 is not in 2 to 32768"),
    (R.SET_VRING_NUM, vring(0, 65536), (), "size 65536 is not in 2 to 32768"),
    (
        R.SET_VRING_NUM,
        vring(8, 256),
        (),
        "queue index 8: the device has at most 2 queue pairs, which are rings 0 to 3",
    ),
    (R.GET_VRING_BASE, vring(2**32 - 1, 0), (), "queue index 4294967295"),
    (R.SET_VRING_ENABLE, vring(0, 2), (), "enable is 2, expected 0 or 1"),
    (R.SET_VRING_ADDR, addr(1, descriptor=BASE + 8), (), "is not aligned to 16 bytes"),
    (R.SET_VRING_ADDR, addr(1, used=BASE + 0x3002), (), "used ring at 0x7f0000003002 is not aligned to 4 bytes"),
    (R.SET_VRING_ADDR, addr(1, available=BASE + 1), (), "is not aligned to 2 bytes"),
    (R.SET_VRING_KICK, U64(255).pack(), (5,), "queue index 255"),
    (R.SET_VRING_KICK, U64(0).pack(), (), "0 file descriptors came, expected 1"),
    (R.SET_VRING_CALL, U64(0).pack(), (5, 6), "2 file descriptors came, expected 1"),
    (R.SET_MEM_TABLE, NINE, tuple(range(8)), "9 memory regions, expected at most 8"),
    (R.SET_MEM_TABLE, pack_regions((MEMORY,)), (), "share=on"),
    (R.SET_MEM_TABLE, OVERLAPPING, (5, 6), "overlaps guest memory 0x0+0x100000"),
    (R.ADD_MEM_REG, region(), (), "0 file descriptors came, expected 1"),
    (R.ADD_MEM_REG, region(size=0), (5,), "is empty"),
    (R.ADD_MEM_REG, region(guest_address=2**64 - 4095), (5,), "guest address 0xfffffffffffff001 plus its size"),
    (R.ADD_MEM_REG, region(user_address=2**64 - 1), (5,), "user address 0xffffffffffffffff plus its size"),
    (R.ADD_MEM_REG, region(offset=2**63), (5,), "file offset 0x8000000000000000 plus its size"),
    (R.ADD_MEM_REG, region(guest_address=4096), (5,), "overlaps"),
    (R.NET_SET_MTU, U64(67).pack(), (), "MTU 67 is not in 68 to 65535"),
    (R.NET_SET_MTU, U64(65536).pack(), (), "MTU 65536"),
    (R.SET_STATUS, U64(256).pack(), (), "does not fit 8 bits"),
    (R.SET_CONFIG, ConfigSpace(6, b"\1").pack(), (), "config bytes 6 to 6 are read-only"),
    (R.SET_CONFIG, ConfigSpace(255, b"12", 1).pack(), (), "the space has 256"),
    (R.SET_CONFIG, ConfigSpace(0, b"1", 2).pack(), (), "config flags 0x2"),
    (R.SET_BACKEND_REQ_FD, b"", (), "0 file descriptors came, expected 1"),
    (R.SET_LOG_BASE, U64(0).pack(), (5,), "SET_LOG_BASE is not supported"),
    (999, b"", (5,), "request 999 is not supported"),
]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: f"{case[0]}-{case[3]}")
@pytest.mark.parametrize("flags", [VERSION, VERSION | NEED_REPLY_FLAG])
def test_refusals_change_nothing_and_say_why(backend, flags, case):
    request_, payload, fds, reason = case
    regions, before = backend.regions, repr(backend.rings)
    effects = backend.receive(Message(request_, payload, fds, flags)) + backend.done()
    if flags == VERSION or request_ == R.GET_VRING_BASE:
        (close,) = effects
        assert isinstance(close, Close)
        assert reason in close.reason
        assert backend.receive(Message(R.SET_OWNER, fds=(77,))) == [], "nothing is heard after Close"
        assert backend.disconnected() == [CloseFds((*fds, 77, 100))]
    else:
        assert effects == [*([CloseFds(fds)] if fds else []), nack(request_)]
        assert (backend.regions, repr(backend.rings)) == (regions, before)
    assert reason in backend.log[-1].outcome


@pytest.mark.parametrize(
    ("request_", "payload"),
    [
        (R.SET_FEATURES, b"1234"),
        (R.SET_VRING_NUM, bytes(9)),
        (R.SET_VRING_ADDR, b""),
        (R.SET_MEM_TABLE, b"\1\0\0\0"),
        (R.SET_MEM_TABLE, b"\2" + bytes(39)),
        (R.ADD_MEM_REG, bytes(32)),
        (R.GET_CONFIG, bytes(11)),
        (R.GET_CONFIG, ConfigSpace(0, bytes(4)).pack() + b"more"),
        (R.SET_OWNER, b"1"),
    ],
)
def test_a_payload_of_the_wrong_length_closes_even_where_a_nack_was_possible(backend, request_, payload):
    effects = backend.receive(Message(request_, payload, (5,), VERSION | NEED_REPLY_FLAG)) + backend.done()
    assert [type(effect) for effect in effects] == [Close]
    assert backend.disconnected() == [CloseFds((5, 100))]


def test_a_ring_outside_memory_is_refused_with_its_address(backend):
    beyond = BASE + (1 << 20)
    for message in (
        Message(R.SET_VRING_NUM, vring(2, 256)),
        Message(R.SET_VRING_ADDR, addr(2, descriptor=BASE, used=beyond, available=BASE)),
    ):
        assert backend.receive(message) + backend.done() == []
    kick = Message(R.SET_VRING_KICK, U64(2).pack(), (5,), VERSION | NEED_REPLY_FLAG)
    assert backend.receive(kick) + backend.done() == [CloseFds((5,)), nack(R.SET_VRING_KICK)]
    assert backend.log[-1].outcome == (
        "ring 2: the used ring at 0x7f0000100000, 2054 bytes, lies in none of the 1 memory regions;"
        " is guest memory shared (QEMU: share=on)?"
    )
    assert not backend.rings[2].kick_known


def test_that_a_ring_was_outside_memory_is_remembered_until_one_is_not(backend):
    start = [Message(R.SET_VRING_NUM, vring(0, 256)), Message(R.SET_VRING_KICK, U64(0).pack(), (5,))]
    outside = Message(R.SET_VRING_ADDR, addr(0, used=BASE + (1 << 20)))
    for message in (outside, *start):
        backend.receive(message)
        backend.done()
    assert backend.unmapped_rings
    backend.disconnected()
    assert backend.unmapped_rings, "why the last front-end had no network is still to be seen"
    call = Frontend().set_mem_table([MemoryRegion(0, 1 << 20, BASE, 0, 101)])
    for message in (call.message, Message(R.SET_VRING_ADDR, addr(0)), *start):
        backend.receive(message)
        backend.done()
    assert backend.rings[0].started
    assert not backend.unmapped_rings
