"""Every start of a ring checks everything, whatever request causes it; and a start that fails is none."""

import pytest

from mpnet.vhost_user.effects import Close, CloseFds, SetMemory, StartRing, StopRing
from mpnet.vhost_user.messages import (
    U64,
    VERSION,
    Message,
    RegionDescription,
    VringAddress,
    pack_regions,
    pack_single_region,
)
from mpnet.vhost_user.state import Offer
from mpnet.virtio.features import Feature, mask
from tests.backend_peer import ACK, BASE, BIT_30, MEMORY, NACK, OFFERED, Peer, R

SPLIT = mask(Feature.VERSION_1) | BIT_30
PACKED = mask(Feature.VERSION_1, Feature.RING_PACKED) | BIT_30
WITH_CONTROL = mask(Feature.VERSION_1, Feature.CTRL_VQ) | BIT_30


@pytest.fixture
def peer():
    return Peer()


def started(peer, features, base=0, size=4):
    """Ring 0 is started and then loses its memory."""
    peer.negotiate(features)
    peer.share(MEMORY)
    peer.state(R.SET_VRING_NUM, 0, size)
    peer.state(R.SET_VRING_BASE, 0, base)
    peer.request(R.SET_VRING_ADDR, VringAddress(0, 0, BASE, BASE + 0x3000, BASE + 0x2000, 0).pack())
    assert peer.u64(R.SET_VRING_KICK, 0, (200,)) == [StartRing(0)]
    peer.base = base
    assert peer.request(R.REM_MEM_REG, pack_single_region(MEMORY))[0] == StopRing(0)


def share_again(peer):
    return peer.request(R.ADD_MEM_REG, pack_single_region(MEMORY), (101,), need_reply=True)


def test_memory_that_comes_back_starts_no_ring_beyond_its_end(peer):
    started(peer, PACKED, 0x8000)
    peer.state(R.SET_VRING_BASE, 0, 0x7FFF)
    assert share_again(peer) == [CloseFds((101,)), NACK]
    assert "base 0x7fff is past its 4 descriptors" in peer.backend.log[-1].outcome
    peer.state(R.SET_VRING_BASE, 0, 0x8003)
    effects = share_again(peer)
    assert isinstance(effects[0], SetMemory)
    assert effects[1:] == [StartRing(0), ACK]


def test_a_whole_table_starts_no_ring_beyond_its_end_either(peer):
    started(peer, PACKED, 0x8000)
    peer.state(R.SET_VRING_BASE, 0, 4)
    assert peer.share(MEMORY, need_reply=True) == [CloseFds((100,)), NACK]


@pytest.mark.parametrize(("before", "after"), [(SPLIT, PACKED), (PACKED, SPLIT)])
def test_a_ring_of_the_other_layout_is_checked_anew(peer, before, after):
    started(peer, before, 0x10 if before == SPLIT else 0x80028002)
    peer.u64(R.SET_FEATURES, after)
    assert share_again(peer) == [CloseFds((101,)), NACK]
    assert "base" in peer.backend.log[-1].outcome


def test_rings_whose_numbers_collide_are_refused():
    peer = Peer(Offer(OFFERED, queue_pairs=2))
    peer.negotiate(WITH_CONTROL)  # without MQ: ring 2 is the control queue, and the last
    peer.share(MEMORY)
    for index in (3, 4):
        peer.set_up(index)
        assert peer.u64(R.SET_VRING_KICK, index, (5,), need_reply=True) == [CloseFds((5,)), NACK]
        assert f"ring {index} is none with the features negotiated" in peer.backend.log[-1].outcome
    peer.set_up(2)
    assert peer.u64(R.SET_VRING_KICK, 2, (6,)) == [StartRing(2)]


def test_no_ring_is_the_control_queue_without_its_feature(peer):
    peer.negotiate(SPLIT)
    peer.share(MEMORY)
    peer.set_up(4)
    assert peer.u64(R.SET_VRING_KICK, 4, (5,), need_reply=True) == [CloseFds((5,)), NACK]


def test_a_control_queue_is_not_polled(peer):
    peer.negotiate(WITH_CONTROL)
    peer.share(MEMORY)
    peer.set_up(2)
    no_fd = 2 | 1 << 8
    assert peer.u64(R.SET_VRING_KICK, no_fd, need_reply=True) == [NACK]
    assert "it needs a kick descriptor" in peer.backend.log[-1].outcome
    peer.u64(R.SET_VRING_KICK, 2, (5,))
    assert peer.u64(R.SET_VRING_KICK, no_fd, need_reply=True) == [NACK], "nor once it is started"
    assert peer.backend.rings[2].kick_fd == 5


def test_what_was_to_start_when_a_stopping_request_failed_is_not_started(peer):
    """One table that stops ring 0 and starts ring 1 again, and cannot be mapped."""
    low, high = RegionDescription(0, 1 << 16, BASE, 0), RegionDescription(1 << 32, 1 << 16, BASE + (1 << 16), 0)
    peer.negotiate(SPLIT)
    peer.share(low, high)
    for index, at in ((0, BASE), (1, BASE + (1 << 16))):
        peer.set_up(index, at=at)
        assert peer.u64(R.SET_VRING_KICK, index, (200 + index,)) == [StartRing(index)]
    assert peer.request(R.REM_MEM_REG, pack_single_region(high))[0] == StopRing(1)
    effects = peer.backend.receive(Message(R.SET_MEM_TABLE, pack_regions((high,)), (150,), VERSION))
    assert [type(effect) for effect in effects] == [StopRing, SetMemory, StartRing]
    assert peer.backend.failed("cannot map it") == [Close("SET_MEM_TABLE: cannot map it")]
    assert [ring.started for ring in peer.backend.rings[:2]] == [False, False]
    (closing,) = peer.backend.disconnected()
    assert sorted(closing.fds) == [100, 150, 200, 201]


def test_a_refusal_of_the_session_is_one_like_any_other(peer):
    peer.negotiate(SPLIT)
    asked = Message(R.SET_VRING_KICK, U64(0).pack(), (5,), VERSION | 8)
    assert peer.backend.refuse(asked, "no eventfd") == []
    assert [type(effect).__name__ for effect in peer.backend.done()] == ["CloseFds", "Send"]
    assert peer.backend.log[-1].outcome == "no eventfd"
    assert peer.backend.refuse(Message(R.GET_FEATURES), "odd") == [Close("GET_FEATURES: odd")]
    assert peer.backend.refuse(Message(R.GET_FEATURES, fds=(7,)), "odd") == []
    assert peer.backend.disconnected() == [CloseFds((7,))]


def test_get_vring_base_takes_the_kick_of_a_ring_that_never_started(peer):
    """Else what is told next would start it, with a kick that nobody writes any more."""
    peer.negotiate(SPLIT)
    peer.share(MEMORY)
    peer.u64(R.SET_VRING_KICK, 0, (5,))
    effects = peer.state(R.GET_VRING_BASE, 0, 0)
    assert effects[0] == CloseFds((5,))
    assert peer.set_up(0) == []
    assert not peer.backend.rings[0].kick_known


@pytest.mark.parametrize(("room", "answer"), [(6 + 8 * 4, ACK), (6 + 8 * 4 - 1, NACK)])
def test_a_ring_part_ends_within_its_region(peer, room, answer):
    peer.negotiate(SPLIT)
    used = BASE + 0x3000
    peer.share(RegionDescription(0, 0x3000 + room, BASE, 0))
    peer.state(R.SET_VRING_NUM, 0, 4)
    peer.request(R.SET_VRING_ADDR, VringAddress(0, 0, BASE, used, BASE + 0x2000, 0).pack())
    assert peer.u64(R.SET_VRING_KICK, 0, (5,), need_reply=True)[-1] == answer
