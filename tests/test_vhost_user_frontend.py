"""The front-end machine against the back-end machine, in memory, and the back-end channel."""

import pytest

from mpnet.errors import ProtocolError
from mpnet.vhost_user import channel
from mpnet.vhost_user.backend import Backend
from mpnet.vhost_user.effects import MemoryRegion, Send, StopRing
from mpnet.vhost_user.framing import Framer
from mpnet.vhost_user.frontend import Call, Frontend, drive, parse_reply
from mpnet.vhost_user.messages import (
    NEED_REPLY_FLAG,
    REPLY_FLAG,
    U64,
    VERSION,
    BackendRequest,
    Message,
    ProtocolFeature,
    Request,
    VringState,
    protocol_mask,
)
from mpnet.vhost_user.ring import Ring
from mpnet.vhost_user.state import Offer
from mpnet.virtio.features import Feature, mask

FEATURES = mask(Feature.VERSION_1, Feature.MQ, Feature.CTRL_VQ)
REGIONS = (MemoryRegion(0, 1 << 20, 0x10000000, 0, 50), MemoryRegion(1 << 32, 1 << 20, 0x20000000, 0, 51))
RINGS = [Ring(i, 256, 0x10000000, 0x10002000, 0x10003000, kick_fd=10 + i, call_fd=20 + i) for i in range(5)]


class Wire:
    """Carries calls to a back-end as bytes; notes the effects it had."""

    def __init__(self, offer):
        self.backend = Backend(offer, bytes(range(24)))
        self.effects = []

    def __call__(self, call):
        framer = Framer()
        message = framer.feed(call.data[: framer.wanted], call.fds)
        while framer.midway:
            message = framer.feed(call.data[-framer.wanted :])
        effects = self.backend.receive(message)
        for effect in effects:
            if isinstance(effect, StopRing):
                self.backend.ring_stopped(effect.index, 1000 + effect.index)
        effects += self.backend.done()
        self.effects += effects
        replies = [effect.data for effect in effects if isinstance(effect, Send)]
        assert len(replies) == call.reply, f"{call.message.name} had {len(replies)} replies"
        if not replies:
            return None
        reply = framer.feed(replies[0][:12])
        return reply or framer.feed(replies[0][12:])


@pytest.mark.parametrize(
    "protocol",
    [
        0,
        protocol_mask(ProtocolFeature.MQ),
        protocol_mask(ProtocolFeature.REPLY_ACK),
        Offer(0).protocol_features,
        protocol_mask(ProtocolFeature.REPLY_ACK, ProtocolFeature.CONFIGURE_MEM_SLOTS),
    ],
)
def test_a_whole_session(protocol):
    wire = Wire(Offer(FEATURES, queue_pairs=2, protocol_features=protocol))
    front_end = Frontend()
    drive(front_end.negotiate(FEATURES | mask(Feature.RSS)), wire)
    assert wire.backend.features == front_end.features
    assert front_end.features & ~mask(Feature.VHOST_USER_PROTOCOL_FEATURES) == FEATURES
    assert front_end.protocol_features == wire.backend.protocol_features
    assert front_end.queue_pairs == (2 if protocol & 1 else 1)

    drive(front_end.share_memory(REGIONS), wire)
    assert wire.backend.regions == REGIONS
    for ring in RINGS:
        drive(front_end.start_ring(ring), wire)
    assert all(ring.started and ring.enabled for ring in wire.backend.rings)
    assert [ring.call_fd for ring in wire.backend.rings] == [20, 21, 22, 23, 24]
    assert wire.backend.control_ring == 4

    for ring in RINGS:
        drive(front_end.stop_ring(ring), wire)
    assert [ring.base for ring in RINGS] == [1000, 1001, 1002, 1003, 1004]
    assert not any(ring.started for ring in wire.backend.rings)
    for ring in RINGS:
        ring.base = 0


def test_configuration_is_read_and_written():
    wire, front_end = Wire(Offer(FEATURES)), Frontend()
    drive(front_end.negotiate(FEATURES), wire)
    call = front_end.get_config(2, 4)
    assert parse_reply(call, wire(call)) == bytes([2, 3, 4, 5])
    call = front_end.set_config(0, b"\2\0\0\0\0\1")
    assert parse_reply(call, wire(call)) == 0


def test_memory_and_device_requests():
    wire, front_end = Wire(Offer(FEATURES)), Frontend()
    drive(front_end.negotiate(FEATURES), wire)
    drive(front_end.share_memory(REGIONS), wire)
    for call in (
        front_end.rem_mem_reg(REGIONS[0]),
        front_end.set_u64(Request.SET_STATUS, 15),
        front_end.set_u64(Request.NET_SET_MTU, 9000),
        front_end.set_backend_req_fd(9),
    ):
        assert parse_reply(call, wire(call)) == 0
    assert wire.backend.regions == REGIONS[1:]
    call = front_end.call(Request.GET_STATUS)
    assert parse_reply(call, wire(call)) == 15


def test_a_refusal_is_an_error():
    wire, front_end = Wire(Offer(FEATURES)), Frontend()
    drive(front_end.negotiate(FEATURES), wire)
    with pytest.raises(ProtocolError, match="the back-end refused SET_VRING_NUM with 1"):
        drive(front_end.start_ring(Ring(0, 48)), wire)
    call = front_end.get_config(0, 300)
    with pytest.raises(ProtocolError, match="the back-end refused GET_CONFIG"):
        parse_reply(call, wire(call))


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (
            Message(2, U64(0).pack(), flags=VERSION | REPLY_FLAG),
            "GET_FEATURES was expected, SET_FEATURES came",
        ),
        (Message(1, U64(0).pack()), "a reply to GET_FEATURES was expected"),
        (Message(1, b"12", flags=VERSION | REPLY_FLAG), "U64 has 2 bytes, expected 8"),
    ],
)
def test_a_wrong_reply_is_an_error(reply, reason):
    with pytest.raises(ProtocolError, match=reason):
        parse_reply(Call(Message(Request.GET_FEATURES)), reply)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (channel.config_change(), (BackendRequest.CONFIG_CHANGE_MSG, None)),
        (channel.vring_call(3), (BackendRequest.VRING_CALL, 3)),
        (channel.vring_err(4, need_reply=True), (BackendRequest.VRING_ERR, 4)),
    ],
)
def test_back_end_requests_are_read_as_sent(data, expected):
    framer = Framer()
    message = framer.feed(data[:12]) or framer.feed(data[12:])
    assert channel.parse(message) == expected


def test_back_end_requests_are_acknowledged_when_asked():
    asked = Message(2, flags=VERSION | NEED_REPLY_FLAG)
    refusal = channel.acknowledge(asked, granted=False)
    assert refusal == Message(2, U64(1).pack(), flags=VERSION | REPLY_FLAG).pack()
    assert channel.acknowledge(Message(2), granted=True) is None


@pytest.mark.parametrize(
    "message", [Message(1), Message(2, b"1"), Message(4, b""), Message(77, VringState(0, 0).pack())]
)
def test_other_back_end_requests_are_refused(message):
    with pytest.raises(ProtocolError):
        channel.parse(message)
