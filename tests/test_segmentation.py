"""Segmenting on rx: what a driver gets of a superframe is what the host's own segmentation makes of it.

Runs compiled here, and once more interpreted by ``test_interpreted.py``.
"""

import random
import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import Ether

from mpnet.guest.chain import PLAIN, Layout
from mpnet.guest.frame import Frame
from mpnet.segment.layout import DropReason
from mpnet.virtio.features import Feature, mask
from tests.segmenter import F_NEEDS_CSUM, Packet, segment
from tests.superframes import Kind, superframe
from tests.worker_harness import FEATURES, HEADER_BYTES, Harness

GSO_ECN = 0x80
NO_CSUM = FEATURES & ~mask(Feature.GUEST_CSUM)
ALL = FEATURES | mask(
    Feature.GUEST_TSO4, Feature.GUEST_TSO6, Feature.GUEST_USO4, Feature.GUEST_USO6, Feature.GUEST_ECN
)
DRIVERS = {
    "checksum offload": FEATURES,
    "nothing": NO_CSUM,
    "packed": FEATURES | mask(Feature.RING_PACKED),
    "legacy header": mask(Feature.RING_INDIRECT_DESC),
}
FLAG_SETS = ["A", "PA", "FPA", "CEA", "CPA"]


def put_on_tap(harness: Harness, packet: Packet, header_bytes: int = HEADER_BYTES) -> None:
    fields = (packet.flags, packet.gso_type, packet.header_length, packet.gso_size, packet.start, packet.offset)
    header = struct.pack("<BBHHHH", *fields).ljust(header_bytes, b"\0")
    harness.tap.send(header + packet.frame)


def finished(frame: Frame) -> bytes:
    """A frame as it is once its checksum is."""
    header = frame.header
    assert header.gso_type == 0
    assert header.flags in {0, F_NEEDS_CSUM}
    packet = Packet(header.flags, 0, 0, 0, header.csum_start, header.csum_offset, frame.data)
    return segment(packet)[0]


kinds = st.builds(
    Kind,
    tcp=st.booleans(),
    ipv6=st.booleans(),
    vlan=st.sampled_from([0, 0, 1, 2, 3, 7]),
    flags=st.sampled_from(FLAG_SETS),
    identification=st.sampled_from([0, 1, 65534]),
)
superframes = st.tuples(
    kinds, st.sampled_from([1, 3, 22, 100, 101, 1400]), st.integers(2, 40), st.integers(0, 99)
)


@pytest.mark.parametrize("mergeable", [True, False], ids=["mergeable", "one chain"])
@pytest.mark.parametrize("features", DRIVERS.values(), ids=DRIVERS.keys())
@settings(max_examples=8, deadline=None)
@given(
    stream=st.lists(superframes, min_size=1, max_size=4),
    layout=st.sampled_from([PLAIN, Layout((12,)), Layout((5, 9, 40)), Layout((70, 1))]),
    room=st.sampled_from([60, 200, 1600]),
    count=st.integers(3, 64),
)
def test_any_superframe(
    features: int,
    mergeable: bool,
    stream: list[tuple[Kind, int, int, int]],
    layout: Layout,
    room: int,
    count: int,
) -> None:
    """Also with few buffers, so that segmenting halts in the middle and goes on when there are more."""
    features = features | mask(Feature.MRG_RXBUF) if mergeable else features & ~mask(Feature.MRG_RXBUF)
    header_bytes = 12 if features & mask(Feature.MRG_RXBUF, Feature.VERSION_1) else 10
    with Harness(entries=256, features=features) as harness:
        harness.start()
        if mergeable:
            harness.receiver.post(room, max(count, 1700 // room), layout)
        else:
            harness.receiver.post(1600, count, layout)
        expected = []
        for number, (kind, gso_size, segments, less) in enumerate(stream):
            length = max(gso_size + 1, gso_size * segments - less % gso_size)
            packet = superframe(kind, gso_size, random.Random(number).randbytes(length))
            put_on_tap(harness, packet, header_bytes)
            expected += segment(packet)
        got = harness.receiver.receive(len(expected))
        assert [finished(frame) for frame in got] == expected
        if not features & mask(Feature.GUEST_CSUM):
            assert {frame.header.flags for frame in got} == {0}
        rx = harness.segment.rings[0]
        assert (rx.segmented, rx.segmented_frames) == (len(expected), len(stream))
        octets = sum(map(len, expected))
        assert (rx.packets, rx.bytes) == (len(expected), octets)


def test_counters_tell_how_much_less_the_tap_counts() -> None:
    with Harness() as harness:
        harness.start()
        harness.receiver.post(1600, 64)
        packet = superframe(Kind(tcp=False, ipv6=False), 100, bytes(950))
        put_on_tap(harness, packet)
        assert len(harness.receiver.receive(10)) == 10
        rx = harness.segment.rings[0]
        assert (rx.segmented, rx.segmented_frames, rx.gso_packets) == (10, 1, 0)
        assert rx.bytes - rx.segmented_saved_bytes == len(packet.frame)


@pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "udp"])
@pytest.mark.parametrize("ipv6", [True, False], ids=["ipv6", "ipv4"])
def test_what_the_driver_takes_goes_whole(tcp: bool, ipv6: bool) -> None:
    with Harness(entries=256, features=ALL) as harness:
        harness.start()
        harness.receiver.post(1600, 64)
        packet = superframe(Kind(tcp, ipv6), 1000, bytes(9500))
        put_on_tap(harness, packet)
        (frame,) = harness.receiver.receive(1)
        assert frame.data == packet.frame
        assert (frame.header.gso_type, frame.header.gso_size) == (packet.gso_type, 1000)
        assert harness.segment.rings[0].segmented == 0


def test_a_driver_that_takes_no_ecn_gets_segments() -> None:
    with Harness(entries=256, features=ALL & ~mask(Feature.GUEST_ECN)) as harness:
        harness.start()
        harness.receiver.post(1600, 64)
        packet = superframe(Kind(tcp=True, ipv6=False, flags="CEA"), 1000, bytes(9500))
        expected = segment(packet)
        packet.gso_type |= GSO_ECN
        put_on_tap(harness, packet)
        assert [finished(frame) for frame in harness.receiver.receive(10)] == expected


@pytest.mark.parametrize("features", [FEATURES, NO_CSUM, ALL], ids=["csum", "nothing", "whole tcp"])
def test_superframes_and_plain_frames_keep_their_order(features: int) -> None:
    """Whichever way the one before took, of those through the spill and those read in place."""
    generator = random.Random(5)
    with Harness(entries=256, features=features & ~mask(Feature.GUEST_USO4, Feature.GUEST_USO6)) as harness:
        harness.start()
        harness.receiver.post(700, 20)
        expected = []
        for number in range(60):
            kind = Kind(tcp=generator.random() < 0.3, ipv6=False)
            size = generator.choice([50, 500, 1400])
            packet = superframe(kind, size, generator.randbytes(generator.choice([20, 3 * size])))
            if len(packet.frame) - packet.header_length <= packet.gso_size:
                packet.gso_type = packet.gso_size = 0
            put_on_tap(harness, packet)
            whole = features == ALL and kind.tcp
            expected += [packet.frame] if whole and packet.gso_type else segment(packet)
            if number % 10 == 9:
                got = harness.receiver.receive(len(expected))
                assert [f.data if f.header.gso_type else finished(f) for f in got] == expected
                expected.clear()


_UDP, _TCP, _TAGGED = Kind(tcp=False, ipv6=False), Kind(tcp=True, ipv6=False), Kind(True, ipv6=False, vlan=1)
CHANGES: dict[str, tuple[Kind, int, int]] = {
    "longer": (_UDP, 1000, 9900),
    "shorter": (_UDP, 1000, 1001),
    "smaller segments": (_UDP, 500, 5500),
    "larger segments": (_UDP, 1400, 5500),
    "longer headers": (_TCP, 1000, 5500),
    "a tag": (_TAGGED, 1000, 5500),
    "IPv6": (Kind(tcp=False, ipv6=True), 1000, 5500),
    "less than its headers": (_UDP, 0, 5),
    "a frame of one buffer": (_UDP, 0, 1200),
    "a frame of several": (_UDP, 0, 5500),
}


@pytest.mark.parametrize("room", [1600, 1042], ids=["one buffer each", "two buffers each"])
@pytest.mark.parametrize("count", [7, 60], ids=["few chains", "many chains"])
def test_a_superframe_is_like_the_last_one_or_not(count: int, room: int) -> None:
    """Nothing of one is left in the next, however few of its segments the ring has room for at a time."""
    generator = random.Random(3)
    with Harness(entries=256) as harness:
        harness.start()
        harness.receiver.post(room, count)
        expected = []
        for kind, size, length in CHANGES.values():
            for shape in [(_UDP, 1000, 5500)] * 2 + [(kind, size, length)]:
                packet = superframe(shape[0], shape[1], generator.randbytes(shape[2]))
                packet.gso_type *= shape[1] > 0
                put_on_tap(harness, packet)
                expected += segment(packet)
        assert [finished(frame) for frame in harness.receiver.receive(len(expected))] == expected


@pytest.mark.parametrize("before", [0, 1], ids=["the first", "like the last one"])
def test_a_replacement_goes_on_in_the_middle_of_a_superframe(before: int) -> None:
    with Harness() as harness:
        harness.start()
        harness.receiver.post(1600, 5)
        packet = superframe(Kind(tcp=True, ipv6=True, vlan=1), 1000, random.Random(1).randbytes(19_500))
        for _ in range(before):
            put_on_tap(harness, packet)
            assert [finished(frame) for frame in harness.receiver.receive(20)] == segment(packet)
        put_on_tap(harness, packet)
        got = []
        for _ in range(3):
            got += harness.receiver.receive(5)
            harness.replace_worker()
        got += harness.receiver.receive(5)
        assert [finished(frame) for frame in got] == segment(packet)
        assert harness.segment.rings[0].spilled == 0


@pytest.mark.parametrize("tags", range(9))
def test_segments_are_cut_behind_as_many_tags_as_the_kernel_cuts_behind(tags: int) -> None:
    with Harness() as harness:
        harness.start()
        harness.receiver.post(1600, 32)
        packet = superframe(Kind(tcp=True, ipv6=False, vlan=tags), 100, bytes(1000))
        put_on_tap(harness, packet)
        plain = superframe(Kind(tcp=False, ipv6=False), 0, bytes(50))
        plain.gso_type = 0
        put_on_tap(harness, plain)
        expected = (segment(packet) if tags < 8 else []) + segment(plain)
        assert [finished(frame) for frame in harness.receiver.receive(len(expected))] == expected
        assert harness.segment.rings[0].drops[DropReason.BAD_HEADER] == (tags == 8)


TRUE = superframe(Kind(tcp=True, ipv6=False), 100, bytes(1000))
LIES = {
    "no size": replace(TRUE, gso_size=0),
    "no checksum asked for": replace(TRUE, flags=0),
    "another protocol's checksum": replace(TRUE, offset=6),
    "transport before network": replace(TRUE, start=20),
    "transport beyond the frame": replace(TRUE, start=60_000),
    "transport at the frame's end": replace(TRUE, start=len(TRUE.frame) - 4),
    "short TCP header": replace(TRUE, frame=TRUE.frame[:46] + b"\x40" + TRUE.frame[47:]),
    "TCP header beyond the frame": replace(TRUE, frame=TRUE.frame[:46] + b"\xf0" + TRUE.frame[47:64]),
    "unknown type": replace(TRUE, gso_type=3),
    "no IP": replace(TRUE, frame=TRUE.frame[:12] + b"\x08\x06" + TRUE.frame[14:]),
}


def test_headers_that_lie_are_dropped_and_counted() -> None:
    with Harness() as harness:
        harness.start()
        harness.receiver.post(1600, 32)
        for count, lie in enumerate(LIES.values(), 1):
            # Nothing of this one makes up for what lies.
            put_on_tap(harness, TRUE)
            assert [finished(frame) for frame in harness.receiver.receive(10)] == segment(TRUE)
            put_on_tap(harness, lie)
            plain = superframe(Kind(tcp=False, ipv6=False), 0, bytes(50))
            plain.gso_type = 0
            put_on_tap(harness, plain)
            assert [finished(frame) for frame in harness.receiver.receive(1)] == segment(plain)
            assert harness.segment.rings[0].drops[DropReason.BAD_HEADER] == count


def test_segments_that_no_chain_holds_are_dropped_and_counted() -> None:
    with Harness(features=FEATURES & ~mask(Feature.MRG_RXBUF)) as harness:
        harness.start()
        harness.receiver.post(500, 32)
        packet = superframe(Kind(tcp=False, ipv6=False), 1000, bytes(3100))
        put_on_tap(harness, packet)
        assert [finished(frame) for frame in harness.receiver.receive(1)] == segment(packet)[-1:]
        assert harness.segment.rings[0].drops[DropReason.TOO_LONG] == 3


def test_headers_between_ip_and_transport_stay() -> None:
    """IPv4's options and IPv6's extension headers are in every segment."""
    with Harness(features=NO_CSUM) as harness:
        harness.start()
        harness.receiver.post(1600, 32)
        networks = [
            (False, IP(src="10.8.0.1", dst="10.8.0.2", id=5, options=[IPOption_NOP()] * 4)),
            (True, IPv6(src="fd80::1", dst="fd80::2") / IPv6ExtHdrDestOpt()),
        ]
        for ipv6, network in networks:
            put_on_tap(harness, superframe(Kind(tcp=False, ipv6=ipv6), 300, bytes(range(250)) * 4, network))
            got = [Ether(frame.data) for frame in harness.receiver.receive(4)]
            assert b"".join(bytes(frame[UDP].payload) for frame in got) == bytes(range(250)) * 4
            for frame in got:
                whole = bytes(frame)
                for layer in (IP, UDP) if not ipv6 else (UDP,):
                    del frame[layer].chksum
                assert bytes(frame) == whole
