"""What a host makes of a packet that a TAP is given: a plain reference for segmentation and checksum offload.

Written from the standards, and slow: nothing of the device's own code is used.
"""

import struct
from dataclasses import dataclass

F_NEEDS_CSUM = 1
GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4 = 1, 4, 5
TCP_FIN_PSH, TCP_CWR = 0x09, 0x80


def internet_sum(data: bytes) -> int:
    """The one's complement sum of 16-bit words."""
    data += b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def put16(data: bytearray, at: int, value: int) -> None:
    data[at : at + 2] = value.to_bytes(2, "big")


def get16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


@dataclass
class Packet:
    """What is written to a TAP: a frame behind its virtio-net header of 12 or 10 bytes."""

    flags: int
    gso_type: int
    header_length: int
    gso_size: int
    start: int
    offset: int
    frame: bytes

    @classmethod
    def read(cls, data: bytes, header_bytes: int = 12) -> "Packet":
        return cls(*struct.unpack_from("<BBHHHH", data), data[header_bytes:])


def complete(frame: bytes, start: int, offset: int) -> bytes:
    """Finish a partial checksum."""
    whole = bytearray(frame)
    # UDP's field of zero would mean that there is none.
    put16(whole, start + offset, ~internet_sum(frame[start:]) & 0xFFFF or (0xFFFF if offset == 6 else 0))
    return bytes(whole)


def segment(packet: Packet) -> list[bytes]:
    """The frames that a packet stands for."""
    frame, start = packet.frame, packet.start
    if packet.gso_type == 0:
        return [complete(frame, start, packet.offset) if packet.flags & F_NEEDS_CSUM else frame]
    assert packet.flags == F_NEEDS_CSUM
    network = 14
    while get16(frame, network - 2) in {0x8100, 0x88A8}:
        network += 4
    ipv6 = frame[network] >> 4 == 6
    tcp = packet.gso_type in {GSO_TCPV4, GSO_TCPV6}
    assert start == network + (40 if ipv6 else 20)
    assert (packet.gso_type == GSO_TCPV6) == (tcp and ipv6)
    assert packet.offset == (16 if tcp else 6)
    headers = start + (frame[start + 12] >> 4) * 4 if tcp else start + 8
    assert packet.header_length == headers
    payload = frame[headers:]
    assert len(payload) > packet.gso_size > 0, "no segmentation needed"
    _check_superframe(frame, network, start, packet.offset, ipv6=ipv6, tcp=tcp)
    frames = []
    for at in range(0, len(payload), packet.gso_size):
        one = bytearray(frame[:headers] + payload[at : at + packet.gso_size])
        if tcp:
            _place(one, start, at, last=at + packet.gso_size >= len(payload))
        _finish(one, network, start, at // packet.gso_size, ipv6=ipv6, tcp=tcp)
        frames.append(bytes(one))
    return frames


def pseudo_header(frame: bytes, network: int, length: int, *, ipv6: bool, tcp: bool) -> bytes:
    addresses = frame[network + 8 : network + 40] if ipv6 else frame[network + 12 : network + 20]
    return addresses + struct.pack(">IHH", length, 0, 6 if tcp else 17)


def _check_superframe(frame: bytes, network: int, start: int, offset: int, *, ipv6: bool, tcp: bool) -> None:
    """Its lengths are those of the whole, its checksums right as far as there are."""
    length = len(frame) - start
    if ipv6:
        assert get16(frame, network + 4) == length
    else:
        assert get16(frame, network + 2) == length + 20
        assert internet_sum(frame[network:start]) == 0xFFFF
    if not tcp:
        assert get16(frame, start + 4) == length
    partial = internet_sum(pseudo_header(frame, network, length, ipv6=ipv6, tcp=tcp))
    assert get16(frame, start + offset) == partial


def _place(one: bytearray, start: int, at: int, *, last: bool) -> None:
    """Make a TCP header that of the segment ``at`` bytes into the payload."""
    sequence = (int.from_bytes(one[start + 4 : start + 8], "big") + at) & 0xFFFFFFFF
    one[start + 4 : start + 8] = sequence.to_bytes(4, "big")
    if not last:
        one[start + 13] &= ~TCP_FIN_PSH & 0xFF
    if at:
        one[start + 13] &= ~TCP_CWR & 0xFF


def _finish(one: bytearray, network: int, start: int, number: int, *, ipv6: bool, tcp: bool) -> None:
    """Set lengths, identification and checksums."""
    length = len(one) - start
    if ipv6:
        put16(one, network + 4, length)
    else:
        put16(one, network + 2, length + 20)
        put16(one, network + 4, (get16(one, network + 4) + number) & 0xFFFF)
        put16(one, network + 10, 0)
        put16(one, network + 10, ~internet_sum(bytes(one[network:start])) & 0xFFFF)
    if not tcp:
        put16(one, start + 4, length)
    field = start + (16 if tcp else 6)
    put16(one, field, 0)
    total = internet_sum(pseudo_header(bytes(one), network, length, ipv6=ipv6, tcp=tcp) + bytes(one[start:]))
    # Zero is UDP's sign for no checksum.
    put16(one, field, ~total & 0xFFFF or (0 if tcp else 0xFFFF))
