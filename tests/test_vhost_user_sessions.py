"""The back-end in whole sessions, as real front-ends hold them."""

import pytest

from mpnet.vhost_user.effects import (
    CloseFds,
    MemoryRegion,
    SetBackendChannel,
    SetFeatures,
    SetMemory,
    SetStatus,
    StartRing,
    StopRing,
    UpdateRing,
)
from mpnet.vhost_user.messages import (
    SUPPORTED_PROTOCOL_FEATURES,
    U64,
    ConfigSpace,
    ProtocolFeature,
    VringState,
    pack_regions,
    pack_single_region,
    protocol_mask,
)
from mpnet.vhost_user.state import Offer
from mpnet.virtio.features import Feature, mask
from tests.backend_peer import ACK, BASE, BIT_30, MEMORY, NET, OFFERED, Peer, R


@pytest.fixture
def peer():
    return Peer()


def test_a_session_as_qemu_7_2_holds_it_with_two_queue_pairs(peer):
    # One vhost device a queue pair: both ask for everything, per-device requests come once.
    assert peer.request(R.GET_FEATURES) == [U64(OFFERED | BIT_30).pack()]
    assert peer.request(R.GET_PROTOCOL_FEATURES) == [U64(SUPPORTED_PROTOCOL_FEATURES).pack()]
    protocol = SUPPORTED_PROTOCOL_FEATURES & ~protocol_mask(ProtocolFeature.CONFIG)
    assert peer.u64(R.SET_PROTOCOL_FEATURES, protocol) == []
    assert peer.request(R.GET_QUEUE_NUM) == [U64(2).pack()]
    assert peer.request(R.GET_MAX_MEM_SLOTS) == [U64(509).pack()]
    assert peer.request(R.SET_BACKEND_REQ_FD, fds=(9,), need_reply=True) == [SetBackendChannel(9), ACK]
    assert peer.request(R.SET_OWNER) == []
    for index in range(4):
        assert peer.u64(R.SET_VRING_CALL, index, (20 + index,)) == []
        assert peer.u64(R.SET_VRING_ERR, index, (30 + index,)) == []
    assert peer.backend.negotiation == "negotiating"

    started = []
    for pair in (0, 1):
        for index in (2 * pair, 2 * pair + 1):
            assert peer.state(R.SET_VRING_ENABLE, index, 1, need_reply=True) == [ACK]
        expected = [SetFeatures(NET | BIT_30)] if pair == 0 else []
        assert peer.u64(R.SET_FEATURES, NET | BIT_30) == expected
        assert len(peer.request(R.GET_STATUS)) == 1
        peer.u64(R.SET_STATUS, 8)
        added = peer.request(R.ADD_MEM_REG, pack_single_region(MEMORY), (40 + pair,), need_reply=True)
        region = MemoryRegion(0, 1 << 20, BASE, 0, 40)
        assert added == ([SetMemory((region,)), ACK] if pair == 0 else [CloseFds((41,)), ACK])
        for index in (2 * pair, 2 * pair + 1):
            peer.set_up(index, at=BASE + 0x10000 * index)
            started += peer.u64(R.SET_VRING_KICK, index, (50 + index,))
            assert peer.u64(R.SET_VRING_CALL, index, (60 + index,)) == [
                UpdateRing(index),
                CloseFds((20 + index,)),
            ]
    assert started == [StartRing(index) for index in range(4)]
    assert peer.u64(R.SET_STATUS, 15) == [SetStatus(15)]
    assert all(ring.enabled and ring.started for ring in peer.backend.rings[:4])
    assert peer.backend.negotiation == "running"

    peer.base = 77
    for index in range(4):
        assert peer.state(R.GET_VRING_BASE, index, 0) == [
            StopRing(index),
            CloseFds((50 + index,)),
            VringState(index, 77).pack(),
        ]
    assert peer.u64(R.SET_STATUS, 0) == [SetStatus(0)]
    assert peer.backend.regions == (region,), "QEMU does not share again what it believes shared"
    assert peer.backend.negotiation == "negotiating"
    closed = peer.backend.disconnected()
    assert closed == [SetBackendChannel(None), CloseFds((40, 60, 30, 61, 31, 62, 32, 63, 33, 9))]


def test_a_session_as_dpdk_virtio_user_holds_it(peer):
    wanted = protocol_mask(ProtocolFeature.MQ, ProtocolFeature.REPLY_ACK, ProtocolFeature.STATUS)
    peer.request(R.SET_OWNER)
    peer.request(R.GET_FEATURES)
    peer.u64(R.SET_PROTOCOL_FEATURES, wanted)
    for status in (0, 1, 3):
        peer.u64(R.SET_STATUS, status, need_reply=True)
    for index in range(2):
        assert peer.u64(R.SET_VRING_CALL, index, (20 + index,)) == [], "virtio-user makes its queues so"
    assert peer.u64(R.SET_FEATURES, NET | BIT_30) == [SetFeatures(NET | BIT_30)]
    assert peer.u64(R.SET_STATUS, 11, need_reply=True) == [SetStatus(11), ACK]
    assert peer.request(R.GET_STATUS) == [U64(11).pack()]
    assert peer.share(MEMORY, need_reply=True)[-1] == ACK
    for index in range(2):
        peer.set_up(index)
        assert peer.u64(R.SET_VRING_KICK, index, (30 + index,)) == [StartRing(index)]
        assert not peer.backend.rings[index].enabled
    for index in range(2):
        assert peer.state(R.SET_VRING_ENABLE, index, 1) == [UpdateRing(index)]
    for index in range(2):
        assert peer.state(R.SET_VRING_ENABLE, index, 0) == [UpdateRing(index)]
        assert peer.state(R.GET_VRING_BASE, index, 0)[0] == StopRing(index)


def test_a_session_as_user_mode_linux_holds_it():
    features = mask(Feature.VERSION_1, Feature.CTRL_VQ, Feature.MAC)
    peer = Peer(Offer(OFFERED, queue_pairs=1), bytes(range(24)))
    peer.request(R.SET_OWNER)
    peer.request(R.GET_FEATURES)
    # It asks from the start of the space to the end of the field it wants.
    asked = ConfigSpace(0, bytes(12)).pack()
    assert peer.request(R.GET_CONFIG, asked) == [ConfigSpace(0, bytes(range(12))).pack()]
    assert peer.u64(R.SET_FEATURES, features) == [SetFeatures(features)]
    assert all(ring.enabled for ring in peer.backend.rings), "without bit 30 rings start enabled"
    # One region told, in a payload with room for two.
    table = pack_regions((MEMORY,)) + bytes(32)
    assert isinstance(peer.request(R.SET_MEM_TABLE, table, (8,))[0], SetMemory)
    for index in range(3):
        peer.u64(R.SET_VRING_CALL, index, (20 + index,))
        peer.set_up(index)
    for index in range(3):
        assert peer.u64(R.SET_VRING_KICK, index, (30 + index,)) == [StartRing(index)]
    assert peer.backend.control_ring == 2

    # The module is loaded again: no GET_VRING_BASE, the rings are simply set up anew.
    peer.base = 99
    assert peer.state(R.SET_VRING_BASE, 0, 0) == [StopRing(0), CloseFds((30,))]
    assert peer.backend.rings[0].base == 0
    assert peer.u64(R.SET_VRING_KICK, 0, (40,)) == [StartRing(0)]


@pytest.mark.parametrize(("config", "queues"), [(False, 2), (True, 5)])
def test_who_reads_the_configuration_space_is_told_virtqueues_and_others_pairs(peer, config, queues):
    """User-Mode Linux 7.2 asks for 5 virtqueues, and takes no device that says it has 2."""
    left_out = protocol_mask() if config else protocol_mask(ProtocolFeature.CONFIG)
    peer.u64(R.SET_PROTOCOL_FEATURES, SUPPORTED_PROTOCOL_FEATURES & ~left_out)
    assert peer.request(R.GET_QUEUE_NUM) == [U64(queues).pack()]
