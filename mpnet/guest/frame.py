"""An Ethernet frame as a driver hands it to the device and gets it back."""

import struct
from dataclasses import dataclass, field
from typing import Self

from mpnet.virtio.net_header import BYTES, GSO_NONE, LEGACY_BYTES

_LAYOUT = struct.Struct("<BBHHHHH")
_LEGACY_LAYOUT = struct.Struct("<BBHHHH")


@dataclass(frozen=True, slots=True)
class NetHeader:
    """struct virtio_net_hdr (VIRTIO 5.1.6), field by field; a plain frame's header is all zero.

    Args:
        flags: ``F_*`` of ``mpnet.virtio.net_header``.
        gso_type: ``GSO_*`` of the same.
        header_length: bytes of the frame's own headers, a hint.
        gso_size: payload bytes of each segment.
        csum_start: where checksumming starts, in bytes from the frame's start.
        csum_offset: where the checksum is stored, in bytes from ``csum_start``.
        num_buffers: chains the frame takes on the rx queue; 0 on the tx queue.
    """

    flags: int = 0
    gso_type: int = GSO_NONE
    header_length: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0
    num_buffers: int = 0

    def pack(self, size: int = BYTES) -> bytes:
        """The header's bytes: ``size`` is 12, or 10 without ``num_buffers``."""
        fields = (
            self.flags,
            self.gso_type,
            self.header_length,
            self.gso_size,
            self.csum_start,
            self.csum_offset,
        )
        return _LEGACY_LAYOUT.pack(*fields) if size == LEGACY_BYTES else _LAYOUT.pack(*fields, self.num_buffers)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Read a header of 12 bytes, or of 10."""
        layout = _LEGACY_LAYOUT if len(data) == LEGACY_BYTES else _LAYOUT
        return cls(*layout.unpack(data))


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame without its checksum at the end, and the header in front of it."""

    data: bytes
    header: NetHeader = field(default_factory=NetHeader)
