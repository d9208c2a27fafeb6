"""Which features a device offers: what is implemented, as far as what is behind it can do it."""

from mpnet.config.device import ECHO, TAP
from mpnet.virtio.features import Feature, has, mask

_ALWAYS = mask(
    Feature.VERSION_1,
    Feature.RING_INDIRECT_DESC,
    Feature.RING_EVENT_IDX,
    Feature.RING_PACKED,
    Feature.MRG_RXBUF,
    Feature.MAC,
    Feature.MTU,
    Feature.STATUS,
    Feature.CTRL_VQ,
    Feature.CTRL_MAC_ADDR,
    Feature.GUEST_ANNOUNCE,
)
_UNFINISHED = mask(Feature.CSUM, Feature.HOST_TSO4, Feature.HOST_TSO6, Feature.HOST_ECN)
"""A TAP with vnet_hdr takes unfinished packets at all times. A driver that is sent its own frames again may take
fewer offloads than it uses, so that those must be finished."""


def offered_features(tap_offloads: int, queue_pairs: int, backend: str = TAP) -> int:
    """Return the virtio features to offer.

    Args:
        tap_offloads: ``Tap.offloads()``.
        queue_pairs: those offered.
        backend: one of ``config.device.BACKENDS``.
    """
    features = _ALWAYS | tap_offloads
    if backend != ECHO:
        features |= _UNFINISHED
    if has(tap_offloads, Feature.GUEST_USO4):
        # A kernel that gives such packets takes them too.
        features |= mask(Feature.HOST_USO)
    return features | mask(Feature.MQ) if queue_pairs > 1 else features
