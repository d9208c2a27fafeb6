"""Which flow a frame belongs to, and whether it may be part of a superframe, told from its private headers.

A frame may be merged only where segmenting the superframe gives it back as it was: what the kernel's own generic
receive offload asks of a packet is asked here (Linux, net/core/gro.c and the gro_receive functions of IPv4, IPv6,
TCP and UDP).
"""

from typing import Any

from mpnet.jit.compile import compiled, inlined
from mpnet.jit.memory import load_i64, load_u8, load_u16, load_u32
from mpnet.virtio.net_header import (
    CSUM_OFFSET,
    CSUM_START,
    F_NEEDS_CSUM,
    FLAGS,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_TYPE,
    GSO_UDP_L4,
)
from mpnet.workers.checksum import load_be16, load_be32, sum_bytes
from mpnet.workers.state import COALESCE_TCP, COALESCE_UDP, UNKNOWN, Context

TCP = 6
UDP = 17
TCP_FLAGS = 13
TCP_FIN = 0x01
TCP_PSH = 0x08
UDP_HEADER_BYTES = 8
TCP_HEADER_BYTES = 20

_ETHERNET_BYTES = 14
_TAG_BYTES = 4
_TAG = 0x8100
_IPV4 = 0x0800
_IPV6 = 0x86DD
_IPV4_BYTES = 20
_IPV6_BYTES = 40
_DONT_FRAGMENT = 0x4000
_TCP_ACK = 0x10
_TCP_ECE = 0x40
_TCP_MERGEABLE_FLAGS = TCP_FIN | TCP_PSH | _TCP_ACK | _TCP_ECE
_TCP_CHECKSUM = 16
_UDP_CHECKSUM = 6
_HASH_FACTOR = 0x9E3779B1


@compiled
def parse(ctx: Context, index: int, number: int) -> None:
    """Fill in what frame ``number`` of this burst is, from its private headers.

    Left with ``gso_type`` 0 are frames whose flow is not known: no IP, fragments, IP options and extension
    headers, transports other than TCP and UDP.
    """
    ring = ctx.rings[index]
    frame = ctx.frames[number]
    frame.gso_type = GSO_NONE
    frame.mergeable = 0
    frame.checksum = UNKNOWN
    network = _ETHERNET_BYTES
    ethertype = load_be16(frame.start + 12)
    if ethertype == _TAG and frame.octets >= _ETHERNET_BYTES + _TAG_BYTES:
        ethertype = load_be16(frame.start + 16)
        network += _TAG_BYTES
    frame.network = network
    packet = frame.start + network
    length = frame.octets - network
    if ethertype == _IPV4 and length >= _IPV4_BYTES + UDP_HEADER_BYTES:
        frame.ipv6 = 0
        protocol, intact = _parse_ipv4(packet, length)
        frame.transport = network + _IPV4_BYTES
    elif ethertype == _IPV6 and length >= _IPV6_BYTES + UDP_HEADER_BYTES:
        frame.ipv6 = 1
        protocol, intact = _parse_ipv6(packet, length)
        frame.transport = network + _IPV6_BYTES
    else:
        return
    if protocol == UDP:
        frame.gso_type = GSO_UDP_L4
        intact = intact and ring.coalesce & COALESCE_UDP != 0 and _parse_udp(frame)
    elif protocol == TCP:
        frame.gso_type = GSO_TCPV6 if frame.ipv6 else GSO_TCPV4
        intact = intact and ring.coalesce & COALESCE_TCP != 0 and _parse_tcp(frame)
    else:
        return
    frame.hashed = _hash(frame)
    frame.mergeable = intact and _finished(frame)


@compiled
def _parse_ipv4(packet: int, length: int) -> tuple[int, bool]:
    """Protocol of an IPv4 packet, 0 where its ports may lie elsewhere, and whether it can be given back."""
    fragment = load_be16(packet + 6)
    if load_u8(packet) != 0x45 or fragment & 0x3FFF:
        return 0, False
    whole = load_be16(packet + 2) == length and fragment & ~_DONT_FRAGMENT == 0
    # The checksum of a header whose sum is right, counted in, is all ones; that of one that is zero is never so.
    right = whole and sum_bytes(packet, _IPV4_BYTES) == 0xFFFF and load_u16(packet + 10) != 0xFFFF
    return load_u8(packet + 9), right


@compiled
def _parse_ipv6(packet: int, length: int) -> tuple[int, bool]:
    if load_u8(packet) >> 4 != 6:
        return 0, False
    return load_u8(packet + 6), load_be16(packet + 4) == length - _IPV6_BYTES


@compiled
def _parse_udp(frame: Any) -> bool:
    """Find the payload of a datagram; whether it has one, unpadded, and a checksum, which segments will have."""
    header = frame.start + frame.transport
    size = frame.octets - frame.transport
    frame.payload = size - UDP_HEADER_BYTES
    frame.final = 0
    return bool(frame.payload > 0 and load_be16(header + 4) == size and load_u16(header + _UDP_CHECKSUM) != 0)


@compiled
def _parse_tcp(frame: Any) -> bool:
    """Find the payload of a segment; whether it has one, and no flag that is not every segment's."""
    header = frame.start + frame.transport
    size = frame.octets - frame.transport
    # Length and flags are beyond a UDP header, and then within the private copy, whatever the frame's length.
    if size < TCP_HEADER_BYTES:
        return False
    header_bytes = load_u8(header + 12) >> 4 << 2
    flags = load_u8(header + TCP_FLAGS)
    frame.payload = size - header_bytes
    frame.final = flags & (TCP_FIN | TCP_PSH) != 0
    return bool(header_bytes >= TCP_HEADER_BYTES and frame.payload > 0 and flags & ~_TCP_MERGEABLE_FLAGS == 0)


@compiled
def _finished(frame: Any) -> bool:
    """Whether the virtio-net header asks for nothing but the transport's checksum at most."""
    header = frame.private
    if load_u8(header + GSO_TYPE) != GSO_NONE:
        return False
    flags = load_u8(header + FLAGS)
    if flags == F_NEEDS_CSUM:
        return bool(
            load_u16(header + CSUM_START) == frame.transport
            and load_u16(header + CSUM_OFFSET) == checksum_offset(frame)
        )
    return flags == 0


@compiled
def _hash(frame: Any) -> int:
    """A 32-bit hash of addresses and ports."""
    packet = frame.start + frame.network
    hashed = load_u32(frame.start + frame.transport)
    for at in range(8 if frame.ipv6 else 12, 40 if frame.ipv6 else 20, 4):
        hashed = ((hashed ^ load_u32(packet + at)) * _HASH_FACTOR) & 0xFFFFFFFF
        hashed ^= hashed >> 15
    return hashed


@compiled
def checksum_offset(frame: Any) -> int:
    """Where the checksum is in the transport header."""
    return _UDP_CHECKSUM if frame.gso_type == GSO_UDP_L4 else _TCP_CHECKSUM


@compiled
def transport_protocol(frame: Any) -> int:
    """The protocol's number."""
    return UDP if frame.gso_type == GSO_UDP_L4 else TCP


@inlined
def same_flow(one: Any, other: Any) -> bool:
    """Whether two frames of known flows have the same protocols, addresses and ports."""
    if one.hashed != other.hashed or one.gso_type != other.gso_type or one.ipv6 != other.ipv6:
        return False
    if load_u32(one.start + one.transport) != load_u32(other.start + other.transport):
        return False
    at = 8 if one.ipv6 else 12
    size = 32 if one.ipv6 else 8
    return same_bytes(one.start + one.network + at, other.start + other.network + at, size)


@inlined
def same_bytes(one: int, other: int, size: int) -> bool:
    """Whether ``size`` bytes, eight at least, are the same."""
    at = 0
    while at < size - 8:
        if load_i64(one + at) != load_i64(other + at):
            return False
        at += 8
    # The last eight may have been looked at in part.
    return load_i64(one + size - 8) == load_i64(other + size - 8)


@compiled
def identification(frame: Any) -> int:
    """IPv4's identification."""
    return load_be16(frame.start + frame.network + 4)


@compiled
def sequence_number(frame: Any) -> int:
    """TCP's sequence number."""
    return load_be32(frame.start + frame.transport + 4)


@compiled
def same_headers(one: Any, other: Any) -> bool:
    """Whether two frames of one flow differ in nothing that segmenting would not restore.

    That leaves lengths, checksums, IPv4's identification, TCP's sequence number, PSH and FIN.
    """
    if not same_bytes(one.start, other.start, one.network):
        return False
    if not _same_network(one.start + one.network, other.start + other.network, one.ipv6):
        return False
    if one.gso_type == GSO_UDP_L4:
        return True
    return _same_tcp(one.start + one.transport, other.start + other.transport)


@compiled
def _same_network(packet: int, other: int, ipv6: int) -> bool:
    """Traffic class and flow label, next header and hop limit; of IPv4 TOS, DF, TTL and protocol."""
    if ipv6:
        return load_u32(packet) == load_u32(other) and load_u16(packet + 6) == load_u16(other + 6)
    return load_u16(packet) == load_u16(other) and load_u32(packet + 6) == load_u32(other + 6)


@compiled
def _same_tcp(header: int, other: int) -> bool:
    """Acknowledgement, flags but for PSH and FIN, window, urgent pointer and options."""
    length = load_u8(header + 12)
    if length != load_u8(other + 12):
        return False
    if (load_u8(header + TCP_FLAGS) ^ load_u8(other + TCP_FLAGS)) & ~(TCP_FIN | TCP_PSH):
        return False
    if load_u32(header + 8) != load_u32(other + 8) or load_u16(header + 14) != load_u16(other + 14):
        return False
    if load_u16(header + 18) != load_u16(other + 18):
        return False
    at = TCP_HEADER_BYTES
    end = length >> 4 << 2
    while at < end and load_u32(header + at) == load_u32(other + at):
        at += 4
    return at >= end
