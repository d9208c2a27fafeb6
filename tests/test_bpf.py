"""Filters: what tcpdump itself lets through is what matches."""

import struct
import subprocess

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw
from scapy.utils import RawPcapReader

from mpnet.bpf import Filter, Instruction, compile_filter
from mpnet.errors import MpnetError
from mpnet.guest import debian
from tests.real.asked import real

_E = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
_V4, _V6 = IP(src="192.0.2.1", dst="192.0.2.2"), IPv6(src="2001:db8::1", dst="2001:db8::2")
FRAMES = [
    bytes(frame)
    for frame in (
        _E / ARP(psrc="192.0.2.1", pdst="192.0.2.9"),
        _E / _V4 / TCP(sport=1025, dport=80, flags="S"),
        _E / _V4 / TCP(sport=80, dport=1025, flags="SA"),
        _E / IP(src="192.0.2.1", dst="192.0.2.2", options=[0] * 8) / TCP(sport=1, dport=80) / Raw(bytes(900)),
        _E / IP(src="198.51.100.7", dst="192.0.2.2", frag=100) / Raw(bytes(range(100))),
        _E / _V4 / UDP(sport=5, dport=53) / Raw(b"x" * 7),
        _E / _V4 / ICMP(),
        _E / _V6 / UDP(sport=53, dport=9),
        _E / _V6 / TCP(sport=9, dport=443, flags="R"),
        _E / Dot1Q(vlan=7) / _V4 / TCP(sport=1, dport=80),
        Ether(dst="ff:ff:ff:ff:ff:ff") / Raw(bytes(46)),
        bytes(14),
        bytes(_E / _V4 / TCP())[:35],
    )
]
EXPRESSIONS = (
    "tcp port 80", "udp", "arp", "ip6", "icmp", "not ip", "host 192.0.2.1", "src net 198.51.100.0/24", "vlan",
    "vlan 7 and tcp port 80", "vlan 8", "ether broadcast", "ether host 02:00:00:00:00:01", "greater 500",
    "less 60",
    "tcp[tcpflags] & (tcp-syn|tcp-ack) != 0", "tcp[13] = 18", "ip[6:2] & 0x1fff != 0", "portrange 50-90",
    "ip6 and tcp port 443", "udp[4:2] - 8 > 5", "ip[0] % 3 = 0 or len / 7 = 8", "ip[2:2] * 2 > 100", "proto 17",
    "(ip[2:2] ^ 0x28) << 3 = 0", "ip[8] >> 5 = 2", "-ip[0] < 0",
)  # fmt: skip


def pcap(frames: list[bytes]) -> bytes:
    packets = (struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame for frame in frames)
    return struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1) + b"".join(packets)


@real("tcpdump")
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_tcpdump_lets_through_matches(tmp_path, expression):
    program = debian.program("tcpdump")
    (tmp_path / "in").write_bytes(pcap(FRAMES))
    command = [program, "-r", tmp_path / "in", "-w", tmp_path / "out", expression]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    with RawPcapReader(str(tmp_path / "out")) as reader:
        passed = [data for data, _ in reader]
    wanted = compile_filter(program, expression)
    assert [frame for frame in FRAMES if wanted.matches(frame, len(frame))] == passed


@real("tcpdump")
def test_an_expression_that_is_none_is_named():
    with pytest.raises(MpnetError, match="the filter 'tcp prt 80': can't parse filter expression: syntax error"):
        compile_filter(debian.program("tcpdump"), "tcp prt 80")


def test_what_lies_beyond_a_packet_does_not_match():
    load, accept = Instruction(0x20, 0, 0, 12), Instruction(0x06, 0, 0, 1)
    assert Filter([load, accept]).matches(bytes(16), 16)
    assert not Filter([load, accept]).matches(bytes(15), 1500)
    divide_by_x = Instruction(0x3C, 0, 0, 0)
    assert not Filter([divide_by_x, accept]).matches(bytes(16), 16)
