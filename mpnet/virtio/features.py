"""Feature bits of a network device and of the virtqueues under it (VIRTIO 1.3, 5.1.3 and 6).

A set of features is a plain ``int`` with bit ``Feature.X`` set for each feature X, as on the wire. Only the
first 64 bits are here: vhost-user's GET_FEATURES and SET_FEATURES carry one u64.
"""

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType


class Feature(enum.IntEnum):
    """Bit numbers, named as in the specification without ``VIRTIO_NET_F_`` or ``VIRTIO_F_``."""

    # Network device, VIRTIO 5.1.3.
    CSUM = 0
    GUEST_CSUM = 1
    CTRL_GUEST_OFFLOADS = 2
    MTU = 3
    MAC = 5
    GSO = 6  # legacy, 5.1.3.2
    GUEST_TSO4 = 7
    GUEST_TSO6 = 8
    GUEST_ECN = 9
    GUEST_UFO = 10
    HOST_TSO4 = 11
    HOST_TSO6 = 12
    HOST_ECN = 13
    HOST_UFO = 14
    MRG_RXBUF = 15
    STATUS = 16
    CTRL_VQ = 17
    CTRL_RX = 18
    CTRL_VLAN = 19
    CTRL_RX_EXTRA = 20
    GUEST_ANNOUNCE = 21
    MQ = 22
    CTRL_MAC_ADDR = 23
    DEVICE_STATS = 50
    HASH_TUNNEL = 51
    VQ_NOTF_COAL = 52
    NOTF_COAL = 53
    GUEST_USO4 = 54
    GUEST_USO6 = 55
    HOST_USO = 56
    HASH_REPORT = 57
    GUEST_HDRLEN = 59
    RSS = 60
    RSC_EXT = 61
    STANDBY = 62
    SPEED_DUPLEX = 63

    # Any device, VIRTIO 6 (24 and 27 are legacy, 6.3).
    NOTIFY_ON_EMPTY = 24
    ANY_LAYOUT = 27
    RING_INDIRECT_DESC = 28
    RING_EVENT_IDX = 29
    VERSION_1 = 32
    ACCESS_PLATFORM = 33
    RING_PACKED = 34
    IN_ORDER = 35
    ORDER_PLATFORM = 36
    SR_IOV = 37
    NOTIFICATION_DATA = 38
    NOTIF_CONFIG_DATA = 39
    RING_RESET = 40
    ADMIN_VQ = 41

    # Between a vhost-user front-end and back-end only; a guest never sees them.
    VHOST_LOG_ALL = 26
    VHOST_USER_PROTOCOL_FEATURES = 30


def mask(*features: Feature) -> int:
    """Return the set holding ``features``."""
    bits = 0
    for feature in features:
        bits |= 1 << feature
    return bits


def has(bits: int, feature: Feature) -> bool:
    """Tell whether ``feature`` is in the set ``bits``."""
    return bool(bits >> feature & 1)


def bit_numbers(bits: int) -> Iterator[int]:
    """Yield the numbers of the bits set in ``bits``, lowest first."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def names(bits: int) -> list[str]:
    """Return the names of the set's features, lowest bit first; a bit without a name reads ``bit_N``."""
    return [_NAMES.get(number, f"bit_{number}") for number in bit_numbers(bits)]


_NAMES = {feature.value: feature.name for feature in Feature}


@dataclass(frozen=True, slots=True)
class MissingDependency:
    """A feature in a set that lacks what it depends on.

    Attributes:
        feature: the feature in the set.
        any_of: one of these would do; none is in the set.
    """

    feature: Feature
    any_of: tuple[Feature, ...]

    def __str__(self) -> str:
        return f"{self.feature.name} needs {' or '.join(need.name for need in self.any_of)}"


def _dependencies() -> dict[Feature, tuple[tuple[Feature, ...], ...]]:
    guest_csum = ((Feature.GUEST_CSUM,),)
    csum = ((Feature.CSUM,),)
    ctrl_vq = ((Feature.CTRL_VQ,),)
    host_tso = ((Feature.HOST_TSO4, Feature.HOST_TSO6),)
    return {
        Feature.GUEST_TSO4: guest_csum,
        Feature.GUEST_TSO6: guest_csum,
        Feature.GUEST_ECN: ((Feature.GUEST_TSO4, Feature.GUEST_TSO6),),
        Feature.GUEST_UFO: guest_csum,
        Feature.GUEST_USO4: guest_csum,
        Feature.GUEST_USO6: guest_csum,
        Feature.HOST_TSO4: csum,
        Feature.HOST_TSO6: csum,
        Feature.HOST_ECN: host_tso,
        Feature.HOST_UFO: csum,
        Feature.HOST_USO: csum,
        Feature.CTRL_RX: ctrl_vq,
        Feature.CTRL_VLAN: ctrl_vq,
        Feature.GUEST_ANNOUNCE: ctrl_vq,
        Feature.MQ: ctrl_vq,
        Feature.CTRL_MAC_ADDR: ctrl_vq,
        Feature.NOTF_COAL: ctrl_vq,
        Feature.VQ_NOTF_COAL: ctrl_vq,
        Feature.DEVICE_STATS: ctrl_vq,
        Feature.RSS: ctrl_vq,
        Feature.HASH_REPORT: ctrl_vq,
        Feature.HASH_TUNNEL: (*ctrl_vq, (Feature.RSS, Feature.HASH_REPORT)),
        Feature.RSC_EXT: host_tso,
    }


DEPENDENCIES: Mapping[Feature, tuple[tuple[Feature, ...], ...]] = MappingProxyType(_dependencies())
"""What each feature needs (VIRTIO 5.1.3.1): every entry of the tuple, and of an entry any one feature."""


def missing_dependencies(bits: int) -> list[MissingDependency]:
    """Return every dependency of VIRTIO 5.1.3.1 the set ``bits`` breaks; empty for a sound set.

    This judges what a *driver* negotiates with a whole device. A vhost-user back-end must not refuse a set on
    these grounds: a front-end that serves the control queue itself (QEMU, DPDK) acks MQ without CTRL_VQ.
    """
    return [
        MissingDependency(feature, any_of)
        for feature, needs in DEPENDENCIES.items()
        if has(bits, feature)
        for any_of in needs
        if not any(has(bits, need) for need in any_of)
    ]
