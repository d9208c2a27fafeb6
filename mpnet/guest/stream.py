"""Streams of numbered frames: what the traffic source sends and the sink recognises.

Every datagram's payload begins with a mark that tells its flow and its number, each with its one's complement
beside it. So a flow's frames differ in four fields and have one checksum (RFC 1071), but for TCP's sequence
number, and what the source sends is right on the wire with or without checksum offload.

    0  magic   u32    4  number  u32    8  ~number  u32    12  ~source port, big-endian u16    14  filler
"""

import ipaddress
import struct
from dataclasses import dataclass

from mpnet.errors import ConfigError
from mpnet.guest.checksum import ones_complement_sum
from mpnet.guest.frame import NetHeader
from mpnet.virtio.features import Feature
from mpnet.virtio.net_header import F_NEEDS_CSUM, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4

MAGIC = 0x2E746E6D
MARK_BYTES = 14
MIN_FRAME = 60
FIRST_SEQUENCE = 1
"""TCP sequence number of a flow's datagram number 0; the next follow without a gap."""
MAX_FRAME = 65535 + 14
ETHERNET_BYTES = 14
_UDP, _TCP = 17, 6
_TRANSPORT_BYTES = {_UDP: 8, _TCP: 20}
_CHECKSUM_AT = {_UDP: 6, _TCP: 16}


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """UDP, or TCP-like, flows that differ in their source port.

    Args:
        source_mac: 6 bytes.
        target_mac: 6 bytes.
        source: address, IPv4 or IPv6.
        target: address of the same family.
        first_port: source port of the first flow.
        target_port: destination port of all.
        flows: how many.
        frame_bytes: of a frame of one datagram, Ethernet header included.
        segments: above 1, each frame is a segmentation offload of that many datagrams (UDP: HOST_USO, TCP:
            HOST_TSO4 or HOST_TSO6 must be negotiated).
        tcp: TCP data segments of no connection, instead of UDP.
        partial_checksum: leave the checksum to the device (CSUM must be negotiated); implied by ``segments``.

    Raises:
        ConfigError: the frame is too short for its mark or longer than any frame, or there are too many flows.
    """

    source_mac: bytes = b"\x02\x6d\x70\x00\x00\x01"
    target_mac: bytes = b"\x02\x6d\x70\x00\x00\x02"
    source: str = "192.0.2.1"
    target: str = "192.0.2.2"
    first_port: int = 1024
    target_port: int = 9
    flows: int = 1
    frame_bytes: int = MIN_FRAME
    segments: int = 1
    tcp: bool = False
    partial_checksum: bool = False

    def __post_init__(self) -> None:
        least = max(MIN_FRAME, self.payload_at + MARK_BYTES)
        if self.frame_bytes < least or self.payload_at + self.segments * self.segment_bytes > MAX_FRAME:
            raise ConfigError(
                f"frames of {self.frame_bytes} bytes, {self.segments} datagrams in one, "
                f"expected {least} bytes at least and {MAX_FRAME} in all"
            )
        if self.flows < 1 or self.first_port + self.flows > 1 << 16:
            raise ConfigError(f"{self.flows} flows from port {self.first_port}, expected 1 to 65535 ports in all")

    @property
    def ipv6(self) -> bool:
        """The addresses are IPv6's."""
        return ipaddress.ip_address(self.source).version == 6

    @property
    def transport_at(self) -> int:
        """Where the UDP or TCP header begins in the frame."""
        return ETHERNET_BYTES + (40 if self.ipv6 else 20)

    @property
    def payload_at(self) -> int:
        """Where the payload begins in the frame."""
        return self.transport_at + _TRANSPORT_BYTES[self._protocol]

    @property
    def segment_bytes(self) -> int:
        """Payload bytes of one datagram."""
        return self.frame_bytes - self.payload_at

    @property
    def offloaded(self) -> bool:
        """The device completes the checksum."""
        return self.partial_checksum or self.segments > 1

    @property
    def needs(self) -> tuple[Feature, ...]:
        """Features a driver that sends this must have negotiated (VIRTIO 5.1.6.2.1)."""
        if not self.offloaded:
            return ()
        if self.segments == 1:
            return (Feature.CSUM,)
        tso = Feature.HOST_TSO6 if self.ipv6 else Feature.HOST_TSO4
        return Feature.CSUM, tso if self.tcp else Feature.HOST_USO

    @property
    def _protocol(self) -> int:
        return _TCP if self.tcp else _UDP

    def header(self) -> NetHeader:
        """The virtio-net header of every frame (VIRTIO 5.1.6.2)."""
        if not self.offloaded:
            return NetHeader()
        gso_type = GSO_NONE
        if self.segments > 1:
            tcp_type = GSO_TCPV6 if self.ipv6 else GSO_TCPV4
            gso_type = tcp_type if self.tcp else GSO_UDP_L4
        return NetHeader(
            F_NEEDS_CSUM,
            gso_type,
            self.payload_at,
            self.segment_bytes if self.segments > 1 else 0,
            self.transport_at,
            _CHECKSUM_AT[self._protocol],
        )

    def payload(self) -> bytes:
        """One datagram's payload: flow 0, number 0; what follows the mark is the same in every datagram."""
        mark = struct.pack("<III", MAGIC, 0, 0xFFFFFFFF) + (self.first_port ^ 0xFFFF).to_bytes(2, "big")
        filler = bytes((31 * place + 7) & 0xFF for place in range(MARK_BYTES, self.segment_bytes))
        return mark + filler

    def frame(self) -> bytes:
        """The first frame of flow 0."""
        ethernet = self.target_mac + self.source_mac + (b"\x86\xdd" if self.ipv6 else b"\x08\x00")
        transport = self._transport(self.payload() * self.segments)
        return ethernet + self._network(len(transport)) + transport

    def _network(self, length: int) -> bytes:
        source, target = self._addresses()
        if self.ipv6:
            return struct.pack(">IHBB", 6 << 28, length, self._protocol, 64) + source + target
        fixed = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, 64, self._protocol, 0)
        checksum = ones_complement_sum(fixed + source + target) ^ 0xFFFF
        return fixed[:10] + checksum.to_bytes(2, "big") + source + target

    def _transport(self, payload: bytes) -> bytes:
        length = _TRANSPORT_BYTES[self._protocol] + len(payload)
        if self.tcp:
            header = struct.pack(
                ">HHIIBBHHH", self.first_port, self.target_port, FIRST_SEQUENCE, 1, 5 << 4, 0x10, 65535, 0, 0
            )
        else:
            header = struct.pack(">HHHH", self.first_port, self.target_port, length, 0)
        pseudo = b"".join(self._addresses()) + struct.pack(">IHH", length, 0, self._protocol)
        if self.offloaded:
            checksum = ones_complement_sum(pseudo)
        else:
            # A UDP checksum of zero means none.
            checksum = (ones_complement_sum(pseudo + header + payload) ^ 0xFFFF) or 0xFFFF
        at = _CHECKSUM_AT[self._protocol]
        return header[:at] + checksum.to_bytes(2, "big") + header[at + 2 :] + payload

    def _addresses(self) -> tuple[bytes, bytes]:
        return ipaddress.ip_address(self.source).packed, ipaddress.ip_address(self.target).packed
