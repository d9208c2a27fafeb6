"""Whatever a front-end sends: nothing is raised, no descriptor is lost or closed twice, no ring started twice."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mpnet.vhost_user.backend import Backend
from mpnet.vhost_user.effects import Close, CloseFds, Send, SetMemory, StartRing, StopRing, UpdateRing
from mpnet.vhost_user.messages import (
    MAX_FDS,
    NEED_REPLY_FLAG,
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
from mpnet.vhost_user.ring_checks import parts
from mpnet.vhost_user.state import Offer
from mpnet.virtio.features import Feature, has, mask

OFFER = Offer(mask(Feature.VERSION_1, Feature.MQ, Feature.CTRL_VQ, Feature.RING_PACKED), 2, max_memory_slots=3)
BASE = 0x10000000

INDEX = st.integers(0, 5)
NUM = st.sampled_from([0, 1, 2, 48, 256, 32768, 65535, 2**32 - 1])
# Mostly with need_reply: without it every refusal ends the session, and few would get far.
FLAGS = st.sampled_from([VERSION] + 9 * [VERSION | NEED_REPLY_FLAG])
# Few places, so that regions meet, overlap and cover rings often.
PLACE = st.integers(0, 3).map(lambda i: i << 16)
REGION = st.builds(
    lambda guest, size, user: RegionDescription(guest, size, BASE + user, 0),
    PLACE,
    st.sampled_from([0, 4096, 1 << 16, 1 << 18, 2**64 - 1]),
    PLACE,
)
ADDRESS = st.builds(
    lambda index, flags, at, odd: VringAddress(
        index, flags, BASE + at, BASE + at + 0x3000 + odd, BASE + at + 0x2000, 0
    ),
    INDEX,
    st.integers(0, 1),
    PLACE.map(lambda place: BASE + place),
    st.sampled_from([0, 0, 0, 2]),
)
STATE = st.builds(VringState, INDEX, NUM).map(VringState.pack)
RING_FD = st.builds(lambda index, nofd: U64(index | nofd).pack(), INDEX, st.sampled_from([0, 0, 0x100]))
CONFIG = st.builds(ConfigSpace, st.integers(0, 300), st.binary(max_size=16), st.integers(0, 2)).map(
    ConfigSpace.pack
)
ANY_U64 = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 15, 1500])).map(
    lambda value: U64(value).pack()
)
FEATURES = st.sampled_from([OFFER.all_features, OFFER.features, OFFER.all_features & ~mask(Feature.RING_PACKED)])
PROTOCOL = st.sampled_from([0, 8, SUPPORTED_PROTOCOL_FEATURES])

PAYLOADS = {
    Request.SET_FEATURES: FEATURES.map(lambda bits: U64(bits).pack()),
    Request.SET_PROTOCOL_FEATURES: PROTOCOL.map(lambda bits: U64(bits).pack()),
    Request.SET_MEM_TABLE: st.lists(REGION, max_size=3).map(lambda regions: pack_regions(tuple(regions))),
    Request.ADD_MEM_REG: REGION.map(pack_single_region),
    Request.REM_MEM_REG: REGION.map(pack_single_region),
    Request.SET_VRING_ADDR: ADDRESS.map(VringAddress.pack),
    Request.GET_CONFIG: CONFIG,
    Request.SET_CONFIG: CONFIG,
    Request.NET_SET_MTU: ANY_U64,
    Request.SET_STATUS: ANY_U64,
    **dict.fromkeys([Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR], RING_FD),
    **dict.fromkeys(
        [Request.SET_VRING_NUM, Request.SET_VRING_BASE, Request.GET_VRING_BASE, Request.SET_VRING_ENABLE], STATE
    ),
}
REQUESTS = st.sampled_from([*Request, *(3 * list(PAYLOADS))]).flatmap(
    lambda request: st.tuples(st.just(int(request)), PAYLOADS.get(request, st.just(b"")))
)
SENSIBLE_FDS = {Request.SET_BACKEND_REQ_FD: 1, Request.ADD_MEM_REG: 1}


class Session:
    """Performs effects on descriptors that are mere numbers, and accounts for each of them."""

    def __init__(self):
        self.backend = Backend(OFFER, bytes(24))
        self.next_fd = 0
        self.open = set()
        self.running = set()
        self.closing = False

    def bring(self, count):
        fds = tuple(range(self.next_fd, self.next_fd + count))
        self.next_fd += count
        self.open |= set(fds)
        return fds

    def perform(self, effects):
        for effect in effects:
            self.perform_one(effect)

    def perform_one(self, effect):
        match effect:
            case CloseFds(fds):
                assert fds
                assert len(set(fds)) == len(fds)
                assert set(fds) <= self.open, "closed twice"
                self.open -= set(fds)
            case StartRing(index):
                assert index not in self.running, "started twice"
                self.expect_servable(self.backend.rings[index])
                self.running.add(index)
            case StopRing(index):
                self.running.remove(index)
                self.backend.ring_stopped(index, 7)
            case UpdateRing(index):
                assert index in self.running
            case SetMemory(regions):
                assert {region.fd for region in regions} <= self.open
            case Close(reason):
                assert reason
                self.closing = True
            case Send(data, fds):
                assert data
                assert not fds

    def expect_servable(self, ring):
        """Whatever request started the ring."""
        packed = has(self.backend.features, Feature.RING_PACKED)
        assert 0 < ring.size <= 32768
        assert not packed or ring.base & 0x7FFF < ring.size
        for part in parts(ring, packed=packed):
            assert any(
                region.user_address <= part.address
                and part.address + part.size <= region.user_address + region.size
                for region in self.backend.regions
            )

    def request(self, message, *, fail=None):
        """One message; the effect of number ``fail`` fails, and what the machine has not started is stopped."""
        effects = self.backend.receive(message)
        if fail is not None and effects and not isinstance(effects[0], Close):
            self.perform(effects[: fail % len(effects)])
            following = self.backend.failed("it did not work")
            self.running &= {ring.index for ring in self.backend.rings if ring.started}
            self.perform(following)
        else:
            self.perform(effects)
            self.perform(self.backend.done())
        if self.closing:
            self.disconnect()
            self.negotiate()

    def negotiate(self):
        self.request(Message(Request.SET_PROTOCOL_FEATURES, U64(SUPPORTED_PROTOCOL_FEATURES).pack()))

    def disconnect(self):
        self.perform(self.backend.disconnected())
        assert self.open == set(), "leaked"
        assert self.running == set()
        assert self.backend.negotiation == "listening"
        self.closing = False


class FrontEnds(RuleBasedStateMachine):
    """Front-ends that send requests in any order, mostly well-formed."""

    def __init__(self):
        super().__init__()
        self.session = Session()
        self.session.negotiate()

    @rule(request=REQUESTS, flags=FLAGS, extra=st.sampled_from([0, 0, 0, 0, 1, 3]))
    def send(self, request, flags, extra):
        number, payload = request
        self.session.request(Message(number, payload, self.fds_for(number, payload, extra), flags))

    @rule(request=REQUESTS, flags=FLAGS, fail=st.integers(0, 3))
    def send_what_cannot_be_performed(self, request, flags, fail):
        number, payload = request
        self.session.request(Message(number, payload, self.fds_for(number, payload, 0), flags), fail=fail)

    @rule(index=INDEX, place=PLACE, flags=FLAGS)
    def start(self, index, place, flags):
        """All of a ring's set-up, so that rings do run."""
        self.session.request(Message(Request.SET_VRING_NUM, VringState(index, 256).pack(), (), flags))
        self.session.request(Message(Request.SET_VRING_BASE, VringState(index, 0).pack(), (), flags))
        at = BASE + place
        address = VringAddress(index, 0, at, at + 0x3000, at + 0x2000, 0).pack()
        self.session.request(Message(Request.SET_VRING_ADDR, address, (), flags))
        self.session.request(Message(Request.SET_VRING_KICK, U64(index).pack(), self.session.bring(1), flags))

    @rule(index=INDEX, enable=st.booleans())
    def enable(self, index, enable):
        state = VringState(index, int(enable)).pack()
        self.session.request(Message(Request.SET_VRING_ENABLE, state, (), VERSION | NEED_REPLY_FLAG))

    @rule(place=PLACE)
    def share(self, place):
        table = pack_regions((RegionDescription(place, 1 << 18, BASE, 0),))
        self.session.request(
            Message(Request.SET_MEM_TABLE, table, self.session.bring(1), VERSION | NEED_REPLY_FLAG)
        )

    @rule()
    def reconnect(self):
        self.session.disconnect()
        self.session.negotiate()

    @invariant()
    def every_descriptor_is_accounted_for(self):
        backend = self.session.backend
        held = [region.fd for region in backend.regions]
        held += [fd for ring in backend.rings for fd in ring.fds]
        assert len(held) == len(set(held))
        channel = self.session.open - set(held)
        assert set(held) <= self.session.open
        assert len(channel) <= 1, "only the back-end channel is not shown"

    @invariant()
    def running_is_what_the_machine_says(self):
        assert self.session.running == {ring.index for ring in self.session.backend.rings if ring.started}

    def teardown(self):
        self.session.disconnect()

    def fds_for(self, number, payload, extra):
        count = SENSIBLE_FDS.get(number, 0)
        if number == Request.SET_MEM_TABLE:
            count = payload[0]
        elif number in {Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR}:
            count = 0 if payload[1] else 1
        return self.session.bring(count + extra)


FrontEnds.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestFrontEnds = FrontEnds.TestCase


NUMBERS = st.integers(0, 50) | st.integers(0, 2**32 - 1)


@given(st.lists(st.tuples(NUMBERS, st.binary(max_size=64), st.integers(0, 2**32 - 1), st.integers(0, MAX_FDS))))
def test_any_message_at_all(messages):
    session = Session()
    session.negotiate()
    for number, payload, flags, fds in messages:
        session.request(Message(number, payload, session.bring(fds), flags))
    session.disconnect()
