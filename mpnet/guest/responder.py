"""A host small enough to be pinged: answers ARP, neighbour discovery, echo requests and UDP datagrams.

``Responder.answer`` is a function of one frame; ``serve`` runs it on a queue pair, outside compiled code.
"""

import ipaddress
import struct
import time
from dataclasses import dataclass
from typing import NamedTuple

from mpnet.guest.checksum import checksum, transport_checksum
from mpnet.guest.driver import Driver

_ARP, _IPV4, _IPV6 = b"\x08\x06", b"\x08\x00", b"\x86\xdd"
_ICMP, _UDP, _ICMPV6 = 1, 17, 58
_ARP_REQUEST = b"\x00\x01\x08\x00\x06\x04\x00\x01"
_ARP_REPLY = b"\x00\x01\x08\x00\x06\x04\x00\x02"
_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_ECHO_REQUEST_V6, _ECHO_REPLY_V6, _SOLICITATION, _ADVERTISEMENT = 128, 129, 135, 136
_SOLICITED_OVERRIDE = 0x60000000
_TARGET_LINK_LAYER_ADDRESS = b"\x02\x01"
_LOOK_SECONDS = 0.1
_POST = 128


class _Packet(NamedTuple):
    """What of an IP packet matters for an answer; addresses packed."""

    source: bytes
    target: bytes
    protocol: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Responder:
    """Answers in the name of a few addresses.

    Args:
        mac: 6 bytes.
        addresses: IPv4 and IPv6 addresses it has.
    """

    mac: bytes
    addresses: tuple[str, ...]

    def answer(self, frame: bytes) -> bytes | None:
        """The frame that answers ``frame``; None where there is nothing to say."""
        kind, body = frame[12:14], frame[14:]
        try:
            reply = self._answer_arp(body) if kind == _ARP else self._answer_ip(kind, body)
        except (struct.error, IndexError):  # a frame cut short
            return None
        return None if reply is None else frame[6:12] + self.mac + kind + reply

    @property
    def _mine(self) -> set[bytes]:
        return {ipaddress.ip_address(address).packed for address in self.addresses}

    def _answer_arp(self, body: bytes) -> bytes | None:
        sender, sender_ip, target_ip = body[8:14], body[14:18], body[24:28]
        if body[:8] != _ARP_REQUEST or target_ip not in self._mine:
            return None
        return _ARP_REPLY + self.mac + target_ip + sender + sender_ip

    def _answer_ip(self, kind: bytes, body: bytes) -> bytes | None:
        packet = _parse_v4(body) if kind == _IPV4 else _parse_v6(body) if kind == _IPV6 else None
        if packet is None:
            return None
        if packet.protocol == _ICMPV6 and packet.data[0] == _SOLICITATION:
            return self._advertise(packet)
        if packet.target not in self._mine:
            return None
        reply = _echo(packet)
        return None if reply is None else _wrap(packet.target, packet.source, packet.protocol, reply)

    def _advertise(self, packet: _Packet) -> bytes | None:
        """Neighbour advertisement (RFC 4861 section 4.4)."""
        target = packet.data[8:24]
        if target not in self._mine:
            return None
        options = _TARGET_LINK_LAYER_ADDRESS + self.mac
        message = struct.pack(">BBHI", _ADVERTISEMENT, 0, 0, _SOLICITED_OVERRIDE) + target + options
        total = transport_checksum(target, packet.source, _ICMPV6, message)
        message = message[:2] + total.to_bytes(2, "big") + message[4:]
        return _wrap(target, packet.source, _ICMPV6, message)


def _parse_v4(body: bytes) -> _Packet | None:
    version, length, fragment, protocol = struct.unpack_from(">BxHxxHxB", body)
    if fragment & 0x3FFF:  # one of several fragments
        return None
    header = 4 * (version & 15)
    return _Packet(body[12:16], body[16:20], protocol, body[header:length])


def _parse_v6(body: bytes) -> _Packet:
    length, protocol = struct.unpack_from(">HB", body, 4)
    return _Packet(body[8:24], body[24:40], protocol, body[40 : 40 + length])


def _echo(packet: _Packet) -> bytes | None:
    """The transport's part of the answer: echo reply, or the datagram sent back."""
    data = packet.data
    if packet.protocol == _UDP:
        source, target, length = struct.unpack_from(">HHH", data)
        header = struct.pack(">HHHH", target, source, length, 0)
        total = transport_checksum(packet.target, packet.source, _UDP, header + data[8:length]) or 0xFFFF
        return header[:6] + total.to_bytes(2, "big") + data[8:length]
    if packet.protocol == _ICMP and data[0] == _ECHO_REQUEST:
        message = bytes((_ECHO_REPLY, 0, 0, 0)) + data[4:]
        return message[:2] + checksum(message).to_bytes(2, "big") + data[4:]
    if packet.protocol == _ICMPV6 and data[0] == _ECHO_REQUEST_V6:
        message = bytes((_ECHO_REPLY_V6, 0, 0, 0)) + data[4:]
        total = transport_checksum(packet.target, packet.source, _ICMPV6, message)
        return message[:2] + total.to_bytes(2, "big") + data[4:]
    return None


def _wrap(source: bytes, target: bytes, protocol: int, data: bytes) -> bytes:
    """An IP packet around ``data``."""
    if len(source) == 16:
        return struct.pack(">IHBB", 6 << 28, len(data), protocol, 255) + source + target + data
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(data), 0, 0x4000, 64, protocol, 0) + source + target
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + data


def serve(driver: Driver, pair: int, responder: Responder, seconds: float) -> int:
    """Answer what comes in on one pair for ``seconds``; return how many frames were answered.

    Raises:
        MpnetError: the device broke a queue or takes no answers.
    """
    deadline = time.monotonic() + seconds
    if not driver.pairs[pair].receiver.posted:
        driver.post(pair, count=_POST)
    answered = 0
    while (left := deadline - time.monotonic()) > 0:
        frames = driver.receive(pair, 1, min(left, _LOOK_SECONDS))
        answers = [answer for frame in frames if (answer := responder.answer(frame.data)) is not None]
        driver.send(pair, answers)
        answered += len(answers)
    return answered
