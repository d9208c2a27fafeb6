"""The back-end: what happens to rings, memory and features at run time."""

import pytest

from mpnet.vhost_user.backend import LOG_LENGTH
from mpnet.vhost_user.effects import (
    Close,
    CloseFds,
    MemoryRegion,
    Reset,
    Send,
    SetBackendChannel,
    SetMemory,
    SetMtu,
    SetStatus,
    StartRing,
    StopRing,
    UpdateRing,
    WriteConfig,
)
from mpnet.vhost_user.messages import (
    NEED_REPLY_FLAG,
    SUPPORTED_PROTOCOL_FEATURES,
    U64,
    VERSION,
    ConfigSpace,
    Message,
    RegionDescription,
    VringAddress,
    VringState,
    pack_regions,
    pack_single_region,
)
from mpnet.vhost_user.state import Offer
from mpnet.virtio.features import Feature, mask
from tests.backend_peer import ACK, BASE, BIT_30, MEMORY, NACK, NET, OFFERED, Peer, R


@pytest.fixture
def peer():
    return Peer()


def test_the_control_queue_comes_after_all_pairs_only_with_multiqueue(peer):
    assert peer.backend.control_ring is None
    peer.u64(R.SET_FEATURES, mask(Feature.CTRL_VQ, Feature.MQ))
    assert peer.backend.control_ring == 4
    peer.u64(R.SET_FEATURES, mask(Feature.CTRL_VQ))
    assert peer.backend.control_ring == 2


def test_a_kick_alone_starts_nothing_and_the_last_missing_piece_does(peer):
    peer.negotiate()
    peer.share(MEMORY)
    assert peer.u64(R.SET_VRING_KICK, 0, (5,)) == []
    assert peer.state(R.SET_VRING_NUM, 0, 256) == []
    address = VringAddress(0, 0, BASE, BASE + 0x3000, BASE + 0x2000, 0).pack()
    assert peer.request(R.SET_VRING_ADDR, address) == [StartRing(0)]


def test_a_ring_without_a_kick_descriptor_is_polled(peer):
    peer.negotiate()
    peer.share(MEMORY)
    peer.set_up(0)
    assert peer.u64(R.SET_VRING_KICK, 0x100) == [StartRing(0)]
    assert peer.backend.rings[0].kick_fd is None
    assert peer.u64(R.SET_VRING_KICK, 0, (6,)) == [UpdateRing(0)]
    assert peer.u64(R.SET_VRING_KICK, 0x100, (7,)) == [UpdateRing(0), CloseFds((6, 7))]


def test_logging_changes_on_a_started_ring_and_other_addresses_stop_it(peer):
    peer.start(0)
    logged = VringAddress(0, 1, BASE, BASE + 0x3000, BASE + 0x2000, 0x5000)
    assert peer.request(R.SET_VRING_ADDR, logged.pack()) == [UpdateRing(0)]
    assert peer.request(R.SET_VRING_ADDR, logged.pack()) == []
    moved = VringAddress(0, 0, BASE + 0x8000, BASE + 0xB000, BASE + 0xA000, 0)
    assert peer.request(R.SET_VRING_ADDR, moved.pack()) == [StopRing(0), CloseFds((200,))]


def test_features_may_be_sent_again_while_running_but_not_changed(peer):
    peer.start(0)
    assert peer.u64(R.SET_FEATURES, NET | BIT_30, need_reply=True) == [ACK]
    assert peer.u64(R.SET_FEATURES, BIT_30, need_reply=True) == [NACK]
    assert "MRG_RXBUF" in peer.backend.log[-1].outcome
    assert peer.backend.features == NET | BIT_30


def test_refused_features_do_not_stick(peer):
    peer.negotiate()
    assert peer.u64(R.SET_FEATURES, mask(Feature.RSS), need_reply=True) == [NACK]
    peer.u64(R.SET_STATUS, 11)
    assert peer.request(R.GET_STATUS) == [U64(3).pack()]
    peer.u64(R.SET_FEATURES, NET)
    peer.u64(R.SET_STATUS, 11)
    assert peer.request(R.GET_STATUS) == [U64(11).pack()]


def test_a_live_ring_survives_the_removal_and_return_of_its_memory(peer):
    peer.start(0)
    other = RegionDescription(1 << 32, 1 << 20, BASE + (1 << 30), 0)
    assert len(peer.request(R.ADD_MEM_REG, pack_single_region(other), (101,))[0].regions) == 2
    peer.base = 33
    removed = peer.request(R.REM_MEM_REG, pack_single_region(MEMORY), (102,))
    assert removed == [
        StopRing(0),
        SetMemory((MemoryRegion(1 << 32, 1 << 20, BASE + (1 << 30), 0, 101),)),
        CloseFds((100, 102)),
    ]
    grown = RegionDescription(0, 2 << 20, BASE, 0)
    effects = peer.request(R.ADD_MEM_REG, pack_single_region(grown), (103,))
    assert isinstance(effects[0], SetMemory)
    assert effects[1:] == [StartRing(0)]
    assert (peer.backend.rings[0].base, peer.backend.rings[0].kick_fd) == (33, 200)


def test_a_new_table_with_live_rings_is_a_new_mapping(peer):
    peer.start(0)
    effects = peer.share(MEMORY, fds=(150,))
    assert effects == [SetMemory((MemoryRegion(0, 1 << 20, BASE, 0, 150),)), CloseFds((100,))]


def test_removing_what_is_not_there_changes_nothing(peer):
    peer.negotiate()
    assert peer.request(R.REM_MEM_REG, pack_single_region(MEMORY), need_reply=True) == [ACK]


@pytest.mark.parametrize("request_", [R.RESET_DEVICE, R.RESET_OWNER])
def test_a_reset_stops_and_disables_rings_but_keeps_memory(peer, request_):
    peer.start(0)
    peer.state(R.SET_VRING_ENABLE, 0, 1)
    peer.u64(R.SET_VRING_CALL, 0, (7,))
    peer.base = 12
    assert peer.request(request_) == [StopRing(0), Reset(), CloseFds((200,))]
    ring = peer.backend.rings[0]
    assert (ring.size, ring.base, ring.enabled, ring.call_fd) == (0, 0, False, 7)
    assert peer.backend.features == 0
    assert len(peer.backend.regions) == 1
    assert peer.backend.protocol_features == SUPPORTED_PROTOCOL_FEATURES


def test_status_zero_stops_what_still_runs_and_keeps_where_it_was(peer):
    # QEMU before 8.0 asks for the base only after status 0, and resumes a paused guest from the answer.
    peer.start(0)
    peer.u64(R.SET_STATUS, 15)
    peer.base = 41
    assert peer.u64(R.SET_STATUS, 0) == [StopRing(0), SetStatus(0), CloseFds((200,))]
    assert peer.state(R.GET_VRING_BASE, 0, 0) == [VringState(0, 41).pack()]
    peer.state(R.SET_VRING_BASE, 0, 41)
    assert peer.u64(R.SET_VRING_KICK, 0, (201,)) == [StartRing(0)]
    assert peer.backend.rings[0].base == 41


def test_config_writes(peer):
    peer.negotiate()
    mac = b"\x52\x54\0\x12\x34\x56"
    assert peer.request(R.SET_CONFIG, ConfigSpace(0, mac).pack()) == [WriteConfig(0, mac, 0)]
    migrated = ConfigSpace(6, b"\1\0", 1)
    assert peer.request(R.SET_CONFIG, migrated.pack()) == [WriteConfig(6, b"\1\0", 1)]
    peer.backend.set_config(b"\7" * 24)
    assert peer.request(R.GET_CONFIG, ConfigSpace(22, bytes(4)).pack()) == [ConfigSpace(22, b"\7\7\0\0").pack()]
    assert peer.request(R.GET_CONFIG, ConfigSpace(0, bytes(257)).pack()) == [b""], "an empty reply says error"


def test_mtu(peer):
    peer.negotiate()
    assert peer.u64(R.NET_SET_MTU, 9000, need_reply=True) == [SetMtu(9000), ACK]


def test_the_acknowledgement_counts_from_the_request_that_negotiates_it(peer):
    assert peer.u64(R.SET_PROTOCOL_FEATURES, SUPPORTED_PROTOCOL_FEATURES, need_reply=True) == [ACK]
    fresh = Peer()
    assert fresh.request(R.SET_OWNER, need_reply=True) == [], "not negotiated yet"


def test_a_channel_replaced_closes_the_last(peer):
    peer.negotiate()
    peer.request(R.SET_BACKEND_REQ_FD, fds=(3,))
    assert peer.request(R.SET_BACKEND_REQ_FD, fds=(4,)) == [SetBackendChannel(4), CloseFds((3,))]


def test_a_packed_ring_has_its_own_rules(peer):
    peer.negotiate(mask(Feature.RING_PACKED, Feature.VERSION_1) | BIT_30)
    peer.share(MEMORY)
    assert peer.state(R.SET_VRING_NUM, 0, 48, need_reply=True) == [ACK]
    misplaced = VringAddress(0, 0, BASE, BASE + 0x3000, BASE + 0x2002, 0)
    assert peer.request(R.SET_VRING_ADDR, misplaced.pack(), need_reply=True) == [NACK]
    assert "driver event suppression" in peer.backend.log[-1].outcome
    peer.request(R.SET_VRING_ADDR, VringAddress(0, 0, BASE, BASE + 0x3000, BASE + 0x2000, 0).pack())
    peer.state(R.SET_VRING_BASE, 0, 48)
    assert peer.u64(R.SET_VRING_KICK, 0, (5,), need_reply=True) == [CloseFds((5,)), NACK]
    assert "base 0x30 is past its 48 descriptors" in peer.backend.log[-1].outcome
    peer.state(R.SET_VRING_BASE, 0, 0x802F802F)
    assert peer.u64(R.SET_VRING_KICK, 0, (6,), need_reply=True) == [StartRing(0), ACK]


def test_memory_slots_are_bounded():
    peer = Peer(Offer(OFFERED, max_memory_slots=1))
    peer.negotiate()
    peer.share(MEMORY)
    more = pack_single_region(RegionDescription(1 << 32, 4096, 1 << 40, 0))
    assert peer.request(R.ADD_MEM_REG, more, (5,), need_reply=True) == [CloseFds((5,)), NACK]
    assert "all 1 memory slots are in use" in peer.backend.log[-1].outcome


def test_what_is_not_offered_is_not_served():
    peer = Peer(Offer(OFFERED, protocol_features=0))
    assert peer.request(R.GET_FEATURES) == [U64(OFFERED).pack()]
    (close,) = peer.request(R.GET_STATUS)
    assert close == Close("GET_STATUS: protocol feature STATUS is not offered")


def test_an_effect_that_fails_takes_the_request_back(peer):
    peer.start(0)
    old = peer.backend.regions
    message = Message(R.SET_MEM_TABLE, pack_regions((MEMORY,)), (150,), VERSION | NEED_REPLY_FLAG)
    assert peer.backend.receive(message)
    effects = peer.backend.failed("cannot map 1 MiB")
    assert effects[0] == CloseFds((150,))
    assert isinstance(effects[1], Send)
    assert effects[1].data.endswith(NACK)
    assert peer.backend.regions == old
    assert peer.backend.log[-1].outcome == "cannot map 1 MiB"


def test_a_ring_that_cannot_start_is_not_started(peer):
    peer.negotiate()
    peer.share(MEMORY)
    peer.set_up(0)
    assert peer.backend.receive(Message(R.SET_VRING_KICK, U64(0).pack(), (5,))) == [StartRing(0)]
    assert peer.backend.failed("no worker") == [Close("SET_VRING_KICK: no worker")]
    assert peer.backend.disconnected() == [CloseFds((5, 100))]


def test_a_ring_that_cannot_stop_ends_the_session(peer):
    peer.start(0)
    message = Message(R.RESET_DEVICE, flags=VERSION | NEED_REPLY_FLAG)
    assert peer.backend.receive(message) == [StopRing(0), Reset()]
    assert peer.backend.failed("the worker hangs") == [Close("RESET_DEVICE: the worker hangs")]
    assert peer.backend.disconnected() == [CloseFds((200, 100))]


def test_the_next_connection_finds_the_same_offer_and_nothing_else(peer):
    peer.start(0, 1)
    assert peer.backend.disconnected() == [StopRing(0), StopRing(1), CloseFds((100, 200, 201))]
    assert peer.backend.negotiation == "listening"
    assert peer.backend.disconnected() == []
    assert peer.request(R.GET_FEATURES) == [U64(OFFERED | BIT_30).pack()]
    peer.start(0)


def test_the_log_is_bounded_and_names_requests(peer):
    for _ in range(LOG_LENGTH + 5):
        peer.request(R.GET_FEATURES)
    assert len(peer.backend.log) == LOG_LENGTH
    assert peer.backend.log[0].request == "GET_FEATURES"


def test_a_broken_ring_shows_in_the_status_until_a_reset() -> None:
    peer = Peer()
    peer.u64(R.SET_STATUS, 15)
    peer.backend.require_reset()
    assert peer.request(R.GET_STATUS) == [U64(15 | 0x40).pack()]
    peer.u64(R.SET_STATUS, 15 | 0x40)
    assert peer.request(R.GET_STATUS) == [U64(15 | 0x40).pack()]
    peer.u64(R.SET_STATUS, 0)
    assert peer.request(R.GET_STATUS) == [U64(0).pack()]
