"""What a session has been told so far: the state every request is a change of."""

import copy
from dataclasses import dataclass, field

from mpnet.errors import ProtocolError
from mpnet.segment.layout import MAX_MEMORY_SLOTS
from mpnet.vhost_user.effects import MemoryRegion
from mpnet.vhost_user.messages import SUPPORTED_PROTOCOL_FEATURES, ProtocolFeature
from mpnet.vhost_user.ring import Ring
from mpnet.virtio.features import Feature, has, mask


class RefusedError(ProtocolError):
    """A well-formed request that cannot be granted; it changes nothing."""


class UnmappedRingError(RefusedError):
    """A ring lies in no region of the memory table: the front-end does not share the memory of its guest."""


class MalformedError(ProtocolError):
    """A request whose payload is not what its kind requires; the session ends."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a device offers, the same at every connection (a front-end reconnects to what it knew).

    Attributes:
        features: virtio features; bit 30 is added wherever protocol features are offered.
        queue_pairs: the most a front-end may use, 1 to 127 (a ring index has 8 bits).
        protocol_features: of ``messages.ProtocolFeature``.
        max_memory_slots: regions a front-end may add one by one; must never decrease, QEMU checks.
    """

    features: int
    queue_pairs: int = 1
    protocol_features: int = SUPPORTED_PROTOCOL_FEATURES
    max_memory_slots: int = MAX_MEMORY_SLOTS

    @property
    def all_features(self) -> int:
        """The answer to GET_FEATURES."""
        return self.features | (mask(Feature.VHOST_USER_PROTOCOL_FEATURES) if self.protocol_features else 0)

    @property
    def rings(self) -> int:
        """Rings a front-end may set up: two a queue pair and the control queue, where offered."""
        return 2 * self.queue_pairs + has(self.features, Feature.CTRL_VQ)


@dataclass(slots=True)
class State:
    """Everything one front-end has said; ``draft()`` copies it, so that a refused request leaves no trace."""

    offer: Offer
    config: bytes = b""
    features: int = 0
    protocol_features: int = 0
    owned: bool = False
    status: int = 0
    needs_reset: bool = False
    features_refused: bool = False
    regions: tuple[MemoryRegion, ...] = ()
    channel_fd: int | None = None
    rings: list[Ring] = field(default_factory=list)

    @classmethod
    def fresh(cls, offer: Offer, config: bytes) -> "State":
        """Return the state of a new connection."""
        return cls(offer, config, rings=[Ring(index) for index in range(offer.rings)])

    def draft(self) -> "State":
        """Return a copy to change freely."""
        draft = copy.copy(self)
        draft.rings = [copy.copy(ring) for ring in self.rings]
        return draft

    @property
    def fds(self) -> tuple[int, ...]:
        """Every file descriptor this state holds."""
        channel = () if self.channel_fd is None else (self.channel_fd,)
        rings = tuple(fd for ring in self.rings for fd in ring.fds)
        return tuple(region.fd for region in self.regions) + rings + channel

    @property
    def packed(self) -> bool:
        """Rings are packed (VIRTIO 2.8), not split (2.7)."""
        return has(self.features, Feature.RING_PACKED)

    @property
    def running(self) -> bool:
        """At least one ring is started."""
        return any(ring.started for ring in self.rings)

    @property
    def control_ring(self) -> int | None:
        """The control queue's ring index (VIRTIO 5.1.2); None where the front-end serves that queue itself."""
        if not has(self.features, Feature.CTRL_VQ):
            return None
        multiqueue = has(self.features, Feature.MQ) or has(self.features, Feature.RSS)
        return 2 * self.offer.queue_pairs if multiqueue else 2

    def negotiated(self, feature: ProtocolFeature) -> bool:
        """Tell whether the front-end acked protocol ``feature``."""
        return bool(self.protocol_features >> feature & 1)

    def ring(self, index: int) -> Ring:
        """Return ring ``index``.

        Raises:
            RefusedError: there is no such ring.
        """
        if index >= len(self.rings):
            pairs = self.offer.queue_pairs
            control = " and the control queue" if len(self.rings) > 2 * pairs else ""
            raise RefusedError(
                f"queue index {index}: the device has at most {pairs} queue pairs,"
                f" which are rings 0 to {2 * pairs - 1}{control}"
            )
        return self.rings[index]
