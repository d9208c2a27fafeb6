"""struct virtio_net_hdr: the header in front of every frame (VIRTIO 1.3, 5.1.6)."""

from mpnet.virtio.features import Feature, has

BYTES = 12
"""Length under VERSION_1 or MRG_RXBUF."""
LEGACY_BYTES = 10

F_NEEDS_CSUM = 1
F_DATA_VALID = 2
F_RSC_INFO = 4

GSO_NONE = 0
GSO_TCPV4 = 1
GSO_UDP = 3
GSO_TCPV6 = 4
GSO_UDP_L4 = 5
GSO_ECN = 0x80

FLAGS = 0
GSO_TYPE = 1
HDR_LEN = 2
GSO_SIZE = 4
CSUM_START = 6
CSUM_OFFSET = 8
NUM_BUFFERS = 10


def header_bytes(features: int) -> int:
    """Length of the header under negotiated ``features``, for the rings and the TAP alike (TUNSETVNETHDRSZ)."""
    long = has(features, Feature.VERSION_1) or has(features, Feature.MRG_RXBUF)
    return BYTES if long else LEGACY_BYTES
