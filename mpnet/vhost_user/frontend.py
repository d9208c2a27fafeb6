"""The front-end's side of vhost-user: requests as bytes, replies as values, no I/O.

Each method of ``Frontend`` makes one ``Call``. Whole sequences are generators of calls that are sent each call's
value: ``drive(front_end.negotiate(features), exchange)`` runs one, where ``exchange`` writes a call to the socket
and reads the reply if there is one. The back-end may pick up a ring between two calls, so a sequence leaves
nothing half done when it ends.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from mpnet.errors import ProtocolError
from mpnet.vhost_user.effects import MemoryRegion
from mpnet.vhost_user.messages import (
    NEED_REPLY_FLAG,
    REPLY_FLAG,
    U64,
    VERSION,
    VRING_NOFD_FLAG,
    ConfigSpace,
    Message,
    ProtocolFeature,
    RegionDescription,
    Request,
    VringAddress,
    VringState,
    pack_regions,
    pack_single_region,
    protocol_mask,
)
from mpnet.vhost_user.ring import Ring
from mpnet.virtio.features import Feature, has

Value = int | bytes
WANTED_PROTOCOL_FEATURES = protocol_mask(
    ProtocolFeature.MQ,
    ProtocolFeature.REPLY_ACK,
    ProtocolFeature.CONFIG,
    ProtocolFeature.CONFIGURE_MEM_SLOTS,
    ProtocolFeature.RESET_DEVICE,
    ProtocolFeature.STATUS,
)


@dataclass(frozen=True, slots=True)
class Call:
    """One request to make.

    Attributes:
        message: the request with its descriptors, which stay the caller's.
        acknowledged: it asked for a REPLY_ACK.
    """

    message: Message
    acknowledged: bool = False

    @property
    def data(self) -> bytes:
        """The bytes to write."""
        return self.message.pack()

    @property
    def fds(self) -> tuple[int, ...]:
        """The descriptors to attach to the first byte."""
        return self.message.fds

    @property
    def reply(self) -> bool:
        """A reply follows and must be read before the next call."""
        return self.acknowledged or self.message.request in _OWN_REPLY


Steps = Generator[Call, Value, None]
Exchange = Callable[[Call], Message | None]

_U64_REPLY = frozenset(
    {
        Request.GET_FEATURES,
        Request.GET_PROTOCOL_FEATURES,
        Request.GET_QUEUE_NUM,
        Request.GET_MAX_MEM_SLOTS,
        Request.GET_STATUS,
    }
)
_OWN_REPLY = _U64_REPLY | {Request.GET_VRING_BASE, Request.GET_CONFIG}


def drive(steps: Steps, exchange: Exchange) -> None:
    """Run a sequence of calls to its end.

    Args:
        steps: as made by ``Frontend.negotiate()`` and its siblings.
        exchange: performs one call; returns the reply where ``call.reply``.

    Raises:
        ProtocolError: a reply is not what its call asked for, or refuses it.
    """
    try:
        call = next(steps)
        while True:
            reply = exchange(call)
            call = steps.send(parse_reply(call, reply) if reply is not None else 0)
    except StopIteration:
        return


def parse_reply(call: Call, reply: Message) -> Value:
    """Return the value of a reply: a number, a ring's base, the bytes of GET_CONFIG; 0 for an acknowledgement.

    Raises:
        ProtocolError: the reply is for another request, malformed, or says that the request was refused.
    """
    asked = call.message
    if reply.request != asked.request or not reply.flags & REPLY_FLAG:
        raise ProtocolError(f"a reply to {asked.name} was expected, {reply.name} came")
    if asked.request == Request.GET_CONFIG:
        if not reply.payload:
            raise ProtocolError("the back-end refused GET_CONFIG")
        return ConfigSpace.unpack(reply.payload).data
    if asked.request == Request.GET_VRING_BASE:
        return VringState.unpack(reply.payload).num
    value = U64.unpack(reply.payload).value
    if call.acknowledged and value:
        raise ProtocolError(f"the back-end refused {asked.name} with {value}")
    return value


class Frontend:
    """Makes requests; remembers what was negotiated, to know what may be asked.

    Attributes:
        features: virtio features negotiated.
        protocol_features: protocol features negotiated.
        queue_pairs: the most the back-end serves.
        memory_slots: the most regions it takes one by one; 0 where it takes only whole tables.
    """

    def __init__(self) -> None:
        self.features = 0
        self.protocol_features = 0
        self.queue_pairs = 1
        self.memory_slots = 0

    def negotiated(self, feature: ProtocolFeature) -> bool:
        """Tell whether protocol ``feature`` was negotiated."""
        return bool(self.protocol_features >> feature & 1)

    def call(self, request: Request, payload: bytes = b"", fds: Sequence[int] = ()) -> Call:
        """Make any request, asking for an acknowledgement where REPLY_ACK was negotiated."""
        acknowledged = self.negotiated(ProtocolFeature.REPLY_ACK) and request not in _OWN_REPLY
        flags = VERSION | NEED_REPLY_FLAG if acknowledged else VERSION
        return Call(Message(request, payload, tuple(fds), flags), acknowledged)

    def get_vring_base(self, index: int) -> Call:
        """Stop a ring; the value is where it was left."""
        return self.call(Request.GET_VRING_BASE, VringState(index, 0).pack())

    def set_vring_enable(self, index: int, *, enable: bool) -> Call:
        """Enable or disable a ring; only with VHOST_USER_PROTOCOL_FEATURES negotiated."""
        return self.call(Request.SET_VRING_ENABLE, VringState(index, int(enable)).pack())

    def set_vring_fd(self, request: Request, index: int, fd: int | None) -> Call:
        """Pass a ring's kick, call or error descriptor; None: the ring, or the guest, polls."""
        if fd is None:
            return self.call(request, U64(index | VRING_NOFD_FLAG).pack())
        return self.call(request, U64(index).pack(), (fd,))

    def set_mem_table(self, regions: Sequence[MemoryRegion]) -> Call:
        """Share all of guest memory, at most 8 regions."""
        told = tuple(_describe(region) for region in regions)
        return self.call(Request.SET_MEM_TABLE, pack_regions(told), [region.fd for region in regions])

    def add_mem_reg(self, region: MemoryRegion) -> Call:
        """Share one more region; only with CONFIGURE_MEM_SLOTS."""
        return self.call(Request.ADD_MEM_REG, pack_single_region(_describe(region)), (region.fd,))

    def rem_mem_reg(self, region: MemoryRegion) -> Call:
        """Take one region back; only with CONFIGURE_MEM_SLOTS."""
        return self.call(Request.REM_MEM_REG, pack_single_region(_describe(region)))

    def get_config(self, offset: int, size: int) -> Call:
        """Read ``size`` bytes of the configuration space."""
        return self.call(Request.GET_CONFIG, ConfigSpace(offset, bytes(size)).pack())

    def set_config(self, offset: int, data: bytes) -> Call:
        """Write to the configuration space as a driver does."""
        return self.call(Request.SET_CONFIG, ConfigSpace(offset, data).pack())

    def set_u64(self, request: Request, value: int) -> Call:
        """Make a request whose payload is one number: SET_FEATURES, SET_STATUS, NET_SET_MTU."""
        return self.call(request, U64(value).pack())

    def set_backend_req_fd(self, fd: int) -> Call:
        """Pass the socket for the back-end's own requests; only with BACKEND_REQ."""
        return self.call(Request.SET_BACKEND_REQ_FD, fds=(fd,))

    def negotiate(self, features: int, protocol_features: int = WANTED_PROTOCOL_FEATURES) -> Steps:
        """Own the session and agree on features: those asked for which the back-end offers."""
        yield self.call(Request.SET_OWNER)
        offered = yield self.call(Request.GET_FEATURES)
        assert isinstance(offered, int)
        if has(offered, Feature.VHOST_USER_PROTOCOL_FEATURES):
            features |= 1 << Feature.VHOST_USER_PROTOCOL_FEATURES
            yield from self._negotiate_protocol(protocol_features)
        self.features = features & offered
        yield self.set_u64(Request.SET_FEATURES, self.features)

    def _negotiate_protocol(self, wanted: int) -> Steps:
        offered = yield self.call(Request.GET_PROTOCOL_FEATURES)
        assert isinstance(offered, int)
        yield self.set_u64(Request.SET_PROTOCOL_FEATURES, wanted & offered)
        self.protocol_features = wanted & offered
        if self.negotiated(ProtocolFeature.MQ):
            queues = yield self.call(Request.GET_QUEUE_NUM)
            assert isinstance(queues, int)
            # To who reads the configuration space the back-end tells virtqueues (see device_requests).
            self.queue_pairs = queues // 2 if self.negotiated(ProtocolFeature.CONFIG) else queues
        if self.negotiated(ProtocolFeature.CONFIGURE_MEM_SLOTS):
            slots = yield self.call(Request.GET_MAX_MEM_SLOTS)
            assert isinstance(slots, int)
            self.memory_slots = slots

    def share_memory(self, regions: Sequence[MemoryRegion]) -> Steps:
        """Share guest memory, region by region where the back-end takes that."""
        if not self.memory_slots:
            yield self.set_mem_table(regions)
            return
        for region in regions:
            yield self.add_mem_reg(region)

    def start_ring(self, ring: Ring) -> Steps:
        """Set up, start and enable one ring, as ``ring`` describes it; memory must be shared before."""
        index = ring.index
        yield self.call(Request.SET_VRING_NUM, VringState(index, ring.size).pack())
        yield self.call(Request.SET_VRING_BASE, VringState(index, ring.base).pack())
        yield self.call(Request.SET_VRING_ADDR, _address(ring).pack())
        # The call and error descriptors first: the kick starts the ring.
        yield self.set_vring_fd(Request.SET_VRING_CALL, index, ring.call_fd)
        yield self.set_vring_fd(Request.SET_VRING_ERR, index, ring.err_fd)
        yield self.set_vring_fd(Request.SET_VRING_KICK, index, ring.kick_fd)
        if has(self.features, Feature.VHOST_USER_PROTOCOL_FEATURES):
            yield self.set_vring_enable(index, enable=True)

    def stop_ring(self, ring: Ring) -> Steps:
        """Stop one ring; ``ring.base`` then says where it was left."""
        base = yield self.get_vring_base(ring.index)
        assert isinstance(base, int)
        ring.base = base


def _describe(region: MemoryRegion) -> RegionDescription:
    return RegionDescription(region.guest_address, region.size, region.user_address, region.offset)


def _address(ring: Ring) -> VringAddress:
    return VringAddress(
        ring.index,
        ring.flags,
        ring.descriptor_address,
        ring.used_address,
        ring.avail_address,
        ring.log_address,
    )
