"""A front-end of raw messages at a back-end's state machine, for tests of what comes of each."""

from mpnet.vhost_user.backend import Backend
from mpnet.vhost_user.effects import (
    Send,
    StartRing,
    StopRing,
)
from mpnet.vhost_user.messages import (
    HEADER,
    NEED_REPLY_FLAG,
    SUPPORTED_PROTOCOL_FEATURES,
    U64,
    VERSION,
    Message,
    RegionDescription,
    Request,
    VringAddress,
    VringState,
    pack_regions,
)
from mpnet.vhost_user.state import Offer
from mpnet.virtio.features import Feature, mask

R = Request
BASE = 0x7F0000000000
MEMORY = RegionDescription(0, 1 << 20, BASE, 0)
OFFERED = mask(
    Feature.VERSION_1, Feature.MQ, Feature.CTRL_VQ, Feature.MRG_RXBUF, Feature.RING_PACKED, Feature.MAC
)
NET = mask(Feature.VERSION_1, Feature.MQ, Feature.MRG_RXBUF)
BIT_30 = mask(Feature.VHOST_USER_PROTOCOL_FEATURES)


class Peer:
    """A front-end that speaks raw messages, and a session that performs every effect."""

    def __init__(self, offer=None, config=bytes(24)):
        self.backend = Backend(offer or Offer(OFFERED, queue_pairs=2), config)
        self.base = 0

    def request(self, request, payload=b"", fds=(), *, need_reply=False):
        """Return the effects with the reply's payload, in order; a Send stands as its payload."""
        flags = VERSION | NEED_REPLY_FLAG if need_reply else VERSION
        effects = self.backend.receive(Message(request, payload, fds, flags))
        for effect in effects:
            if isinstance(effect, StopRing):
                self.backend.ring_stopped(effect.index, self.base)
        return [self._reply(effect, request) for effect in [*effects, *self.backend.done()]]

    def state(self, request, index, num, **kwargs):
        return self.request(request, VringState(index, num).pack(), **kwargs)

    def u64(self, request, value, fds=(), **kwargs):
        return self.request(request, U64(value).pack(), fds, **kwargs)

    def share(self, *regions, fds=None, **kwargs):
        fds = tuple(range(100, 100 + len(regions))) if fds is None else fds
        return self.request(R.SET_MEM_TABLE, pack_regions(regions), fds, **kwargs)

    def set_up(self, index, size=256, at=BASE):
        """Everything about a ring but its kick."""
        self.state(R.SET_VRING_NUM, index, size)
        self.state(R.SET_VRING_BASE, index, 0)
        return self.request(R.SET_VRING_ADDR, VringAddress(index, 0, at, at + 0x3000, at + 0x2000, 0).pack())

    def negotiate(self, features=NET | BIT_30, protocol=SUPPORTED_PROTOCOL_FEATURES):
        self.request(R.SET_OWNER)
        self.u64(R.SET_PROTOCOL_FEATURES, protocol)
        self.u64(R.SET_FEATURES, features)

    def start(self, *indexes):
        self.negotiate()
        self.share(MEMORY)
        for index in indexes:
            self.set_up(index)
            assert self.u64(R.SET_VRING_KICK, index, (200 + index,)) == [StartRing(index)]

    @staticmethod
    def _reply(effect, request):
        if not isinstance(effect, Send):
            return effect
        number, flags, size = HEADER.unpack_from(effect.data)
        assert (number, flags, size) == (request, 5, len(effect.data) - HEADER.size)
        return effect.data[HEADER.size :]


ACK = U64(0).pack()
NACK = U64(1).pack()
