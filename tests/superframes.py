"""Superframes as a TAP gives them: TCP and UDP, IPv4 and IPv6, tagged or not."""

from dataclasses import dataclass

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet as ScapyPacket

from tests.segmenter import (
    F_NEEDS_CSUM,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    Packet,
    internet_sum,
    pseudo_header,
    put16,
)


@dataclass(frozen=True)
class Kind:
    """What a superframe is."""

    tcp: bool
    ipv6: bool
    vlan: int = 0  # tags
    flags: str = "PA"
    identification: int = 65534


def superframe(kind: Kind, gso_size: int, payload: bytes, network: ScapyPacket | None = None) -> Packet:
    """What a TAP gives: headers of the whole, and the sum of the pseudo-header for a checksum."""
    if network is None:
        network = IPv6(src="fd80::1", dst="fd80::2") if kind.ipv6 else IP(src="10.8.0.1", dst="10.8.0.2")
        if not kind.ipv6:
            network.id = kind.identification
    transport = TCP(sport=7, dport=9, seq=0xFFFFFF00, flags=kind.flags, options=[("Timestamp", (1, 2))])
    transport = transport if kind.tcp else UDP(sport=7, dport=9)
    frame = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    for number in range(kind.vlan):
        frame = frame / Dot1Q(vlan=7 + number, prio=3)
    data = bytearray(bytes(frame / network / transport / payload))
    at = 14 + 4 * kind.vlan
    start = at + (len(network) if kind.ipv6 else data[at] % 16 * 4)
    offset = 16 if kind.tcp else 6
    total = internet_sum(pseudo_header(bytes(data), at, len(data) - start, ipv6=kind.ipv6, tcp=kind.tcp))
    put16(data, start + offset, total)
    gso_type = (GSO_TCPV6 if kind.ipv6 else GSO_TCPV4) if kind.tcp else GSO_UDP_L4
    return Packet(F_NEEDS_CSUM, gso_type, len(data) - len(payload), gso_size, start, offset, bytes(data))
