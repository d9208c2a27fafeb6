"""Streams of UDP and TCP frames with every quirk that must keep a frame from being coalesced, or must not."""

import random
import struct
from dataclasses import dataclass, field

from mpnet.guest.frame import Frame, NetHeader
from tests.segmenter import get16, internet_sum, pseudo_header, put16

QUIRKS = (
    "csum offload", "csum offload, wrong start", "csum offload, wrong sum", "data valid", "gso",
    "wrong csum", "zero csum", "all-ones csum", "zero csum that adds up", "wrong IP csum", "all-ones IP csum",
    "id jump", "id fixed", "id fixed, no DF", "id backwards", "no DF",
    "reserved bit", "ttl", "tos", "CE", "flow label",
    "first fragment", "last fragment", "IP options", "extension header", "other protocol", "bad version",
    "padding", "longer IP length", "shorter IP length", "wrong UDP length", "cut",
    "mac", "vlan priority", "one more tag", "arp",
    "psh", "fin", "syn", "rst", "urg", "cwr", "ece", "urgent pointer", "no ack", "ns",
    "sequence gap", "again", "ack", "window", "options", "changed option", "long header",
    "empty", "one byte", "odd", "longer",
)  # fmt: skip
_TCP_FLAGS = {"psh": 8, "fin": 9, "syn": 2, "rst": 4, "urg": 0x20, "cwr": 0x80, "ece": 0x40}
VLAN_TAG = b"\x81\x00"


@dataclass
class Flow:
    """One flow's place: what its next frame would carry."""

    number: int
    tcp: bool
    ipv6: bool
    vlan: int = 0
    size: int = 100
    identification: int = 0xFFF0
    sequence: int = 0xFFFFF800
    generator: random.Random = field(default_factory=lambda: random.Random(7))

    def frame(self, quirk: str = "") -> Frame:
        """The next frame, or one beside the point."""
        if quirk == "arp":
            return Frame(b"\xff" * 6 + b"\x02" * 6 + b"\x08\x06" + bytes(28))
        payload = self.generator.randbytes(self._payload_bytes(quirk))
        transport = self._tcp(quirk, payload) if self.tcp else self._udp(payload)
        data = bytearray(self._ethernet(quirk) + self._network(quirk, len(transport)) + transport)
        start = len(data) - len(transport)
        self._advance(quirk, len(payload))
        return self._finish(quirk, data, start)

    @property
    def network(self) -> int:
        return 18 if self.vlan else 14

    def _payload_bytes(self, quirk: str) -> int:
        sizes = {"empty": 0, "one byte": 1, "odd": self.size - 3, "longer": self.size + 1}
        return sizes.get(quirk, self.size)

    def _ethernet(self, quirk: str) -> bytes:
        tag = VLAN_TAG + (self.vlan | (0x2000 if quirk == "vlan priority" else 0)).to_bytes(2, "big")
        tags = (tag if self.vlan else b"") + (VLAN_TAG + b"\0\x05" if quirk == "one more tag" else b"")
        source = b"\x02\0\0\0\0" + bytes([2 if quirk == "mac" else 1])
        return b"\x02\0\0\0\0\x09" + source + tags + (b"\x86\xdd" if self.ipv6 else b"\x08\0")

    def _network(self, quirk: str, length: int) -> bytes:
        protocol = 132 if quirk == "other protocol" else 6 if self.tcp else 17
        tos = {"tos": 0x10, "CE": 3}.get(quirk, 0)
        ttl = 63 if quirk == "ttl" else 64
        version = 7 if quirk == "bad version" else 6 if self.ipv6 else 4
        length += {"longer IP length": 1, "shorter IP length": -1}.get(quirk, 0)
        if self.ipv6:
            label = 5 if quirk == "flow label" else 0
            addresses = bytes(15) + b"\x01" + bytes(15) + bytes([2 + self.number % 2])
            extension = struct.pack(">BB6x", protocol, 0) if quirk == "extension header" else b""
            following = 60 if extension else protocol
            first = version << 28 | tos << 20 | label
            return struct.pack(">IHBB", first, length + len(extension), following, ttl) + addresses + extension
        options = b"\x01" * 4 if quirk == "IP options" else b""
        fragment = {
            "no DF": 0,
            "id fixed, no DF": 0,
            "first fragment": 0x2000,
            "last fragment": 10,
            "reserved bit": 0xC000,
        }
        identification = self.identification
        if quirk == "id backwards":
            identification -= 2
        header = struct.pack(
            ">BBHHHBBH4s4s",
            version << 4 | (5 + len(options) // 4), tos, (20 + len(options) + length) & 0xFFFF,
            identification & 0xFFFF, fragment.get(quirk, 0x4000), ttl, protocol, 0,
            b"\x0a\0\0\x01", bytes([10, 0, 0, 2 + self.number % 2]),
        )  # fmt: skip
        header = bytearray(header + options)
        if quirk == "all-ones IP csum":
            # The identification that makes the sum of the rest all ones.
            put16(header, 4, 0)
            put16(header, 4, ~internet_sum(bytes(header)) & 0xFFFF)
            put16(header, 10, 0xFFFF)
        else:
            put16(header, 10, ~internet_sum(bytes(header)) & 0xFFFF ^ (quirk == "wrong IP csum"))
        return bytes(header)

    @staticmethod
    def _options(quirk: str) -> bytes:
        stamp = 2 if quirk == "changed option" else 1
        options = struct.pack(">BBBBII", 1, 1, 8, 10, stamp, 7)
        return options if quirk in {"options", "changed option"} else b""

    def _udp(self, payload: bytes) -> bytes:
        return struct.pack(">HHHH", 1000 + self.number, 9, 8 + len(payload), 0) + payload

    def _tcp(self, quirk: str, payload: bytes) -> bytes:
        flags = 0 if quirk == "no ack" else 0x10 | _TCP_FLAGS.get(quirk, 0)
        options = self._options(quirk)
        offset = 15 if quirk == "long header" else 5 + len(options) // 4
        header = struct.pack(
            ">HHIIBBHHH",
            1000 + self.number, 9, (self.sequence + (quirk == "sequence gap")) & 0xFFFFFFFF,
            6 if quirk == "ack" else 5, offset << 4 | (quirk == "ns"), flags,
            501 if quirk == "window" else 500, 0, 3 if quirk == "urgent pointer" else 0,
        )  # fmt: skip
        return header + options + payload

    def _advance(self, quirk: str, payload: int) -> None:
        if quirk not in {"id fixed", "id fixed, no DF"}:
            self.identification = (self.identification + (7 if quirk == "id jump" else 1)) & 0xFFFF
        if quirk != "again":
            self.sequence = (self.sequence + payload) & 0xFFFFFFFF

    def _finish(self, quirk: str, data: bytearray, start: int) -> Frame:
        """Add the checksum, and what is done to a finished frame."""
        field = start + (16 if self.tcp else 6)
        length = len(data) - start
        network = self.network + (4 if quirk == "one more tag" else 0)
        pseudo = pseudo_header(bytes(data), network, length, ipv6=self.ipv6, tcp=self.tcp)
        header = NetHeader()
        if quirk == "wrong UDP length" and not self.tcp:
            put16(data, start + 4, length - 1)
        if quirk in {"all-ones csum", "zero csum that adds up"} and length > 40:
            put16(data, start + length // 2 // 2 * 2, 0)
            rest = internet_sum(pseudo + bytes(data[start:]))
            put16(data, start + length // 2 // 2 * 2, ~rest & 0xFFFF)
            put16(data, field, 0xFFFF if quirk == "all-ones csum" else 0)
        elif quirk in {"csum offload", "csum offload, wrong start", "csum offload, wrong sum", "gso"}:
            put16(data, field, internet_sum(pseudo) ^ (quirk == "csum offload, wrong sum"))
            gso_type = (4 if self.ipv6 else 1) if self.tcp else 5
            size = 10 if quirk == "gso" and length > 60 else 0
            header = NetHeader(
                1, gso_type if size else 0, (start + (20 if self.tcp else 8)) if size else 0, size,
                start - 2 * (quirk == "csum offload, wrong start"), field - start,
            )  # fmt: skip
        elif quirk != "zero csum":
            total = ~internet_sum(pseudo + bytes(data[start:])) & 0xFFFF
            put16(data, field, (total or (0 if self.tcp else 0xFFFF)) ^ (quirk == "wrong csum"))
        if quirk == "data valid":
            header = NetHeader(flags=2)
        if quirk == "padding":
            data += bytes(6)
        if quirk == "cut":
            del data[start + 10 :]
        return Frame(bytes(data), header)


def flow_of(frame: bytes) -> bytes:
    """Protocol, addresses and ports of a frame; b"" where these are not plain to see."""
    network = 18 if get16(frame, 12) == 0x8100 else 14
    packet = frame[network:]
    if len(packet) < 28:
        return b""
    if get16(frame, network - 2) == 0x0800 and packet[0] == 0x45 and not get16(packet, 6) & 0x3FFF:
        return packet[9:10] + packet[12:24] if packet[9] in {6, 17} else b""
    if get16(frame, network - 2) == 0x86DD and len(packet) >= 48 and packet[0] >> 4 == 6:
        return packet[6:7] + packet[8:44] if packet[6] in {6, 17} else b""
    return b""
