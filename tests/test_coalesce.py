"""Coalescing is invisible: what a host makes of the superframes is what the guest sent.

Runs compiled here, and once more interpreted by ``test_interpreted.py``.
"""

import errno
import socket
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from mpnet.guest.chain import PLAIN, Layout
from mpnet.guest.frame import Frame
from mpnet.jit import syscalls
from mpnet.jit.compile import JIT
from mpnet.jit.memory import load_i64, load_u8
from mpnet.workers import rings, write
from mpnet.workers.state import COALESCE_TCP, COALESCE_UDP
from tests.quirky_stream import QUIRKS, Flow, flow_of
from tests.segmenter import GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, Packet, segment
from tests.worker_harness import HEADER_BYTES, Harness

KINDS = {
    "UDP over IPv4": (False, False),
    "UDP over IPv6": (False, True),
    "TCP over IPv4": (True, False),
    "TCP over IPv6": (True, True),
}
# What ends or keeps out of a superframe, by protocol; all else in QUIRKS is the same to it as no quirk.
IPV4_ONLY = {
    "wrong IP csum", "all-ones IP csum", "id backwards", "no DF", "id fixed, no DF", "reserved bit",
    "first fragment", "last fragment", "IP options",
}  # fmt: skip
IPV6_ONLY = {"flow label", "extension header"}
UDP_ONLY = {"zero csum", "zero csum that adds up", "wrong UDP length"}
TCP_ONLY = {
    "all-ones csum", "zero csum", "syn", "rst", "urg", "cwr", "ece", "urgent pointer", "no ack", "ns",
    "sequence gap", "ack", "window", "options", "changed option", "long header",
}  # fmt: skip
ANY = {
    "csum offload, wrong start", "csum offload, wrong sum", "data valid", "gso", "wrong csum", "ttl", "tos", "CE",
    "other protocol", "bad version", "padding", "longer IP length", "shorter IP length", "cut", "mac",
    "one more tag", "arp", "empty", "longer",
}  # fmt: skip
# What is never a part of a superframe, not even among its like.
NEVER = {
    "csum offload, wrong start", "csum offload, wrong sum", "data valid", "gso", "wrong csum", "other protocol",
    "bad version", "padding", "longer IP length", "shorter IP length", "cut", "arp", "empty",
}  # fmt: skip
NEVER_IPV4 = {
    "wrong IP csum", "all-ones IP csum", "id jump", "id fixed", "id fixed, no DF", "reserved bit",
    "first fragment", "last fragment", "IP options",
}  # fmt: skip
IPV6_EXTENDED = {"extension header"}
NEVER_TCP = {
    "all-ones csum", "zero csum", "syn", "rst", "urg", "cwr", "psh", "fin", "again", "long header",
}  # fmt: skip
# What makes the frame that follows the odd one.
LATER = {"id fixed", "id jump", "again"}
SHORTER = {"one byte", "odd"}


def exchange(
    harness: Harness, frames: Sequence[Frame], layout: Layout = PLAIN, header_bytes: int = HEADER_BYTES
) -> list[Packet]:
    """What the TAP is given for frames that are made available all at once."""
    harness.sender.send(frames, layout)
    packets = []
    harness.tap.setblocking(False)
    try:
        while True:
            packets.append(Packet.read(harness.tap.recv(1 << 17), header_bytes))
    except BlockingIOError:
        return packets


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    with Harness(entries=1024, sizes=(1 << 20, 16 << 20)) as harness:
        harness.start()
        yield harness


def as_sent(frame: Frame) -> list[bytes]:
    if frame.header.gso_type:
        return [frame.data]
    return segment(Packet.read(frame.header.pack(HEADER_BYTES) + frame.data))


def expect_the_same(frames: Sequence[Frame], packets: Sequence[Packet]) -> None:
    """Each flow's frames come in order and as they were; what belongs to no known flow overtakes nothing."""
    got: list[bytes] = []
    given = {frame.data for frame in frames if frame.header.gso_type}
    for packet in packets:
        got += [packet.frame] if packet.frame in given else segment(packet)
    sent = [piece for frame in frames for piece in as_sent(frame)]
    assert len(sent) == len(got)
    for flow in {flow_of(frame) for frame in sent}:
        # Frames of no known flow keep their places among those of each flow.
        expected = [frame for frame in sent if flow_of(frame) in {flow, b""}]
        assert [frame for frame in got if flow_of(frame) in {flow, b""}] == expected


steps = st.tuples(
    st.integers(0, 5),
    st.one_of(st.just(""), st.just(""), st.just(""), st.just("csum offload"), st.sampled_from(QUIRKS)),
)
layouts = st.builds(Layout, st.lists(st.integers(1, 90), max_size=6).map(tuple))


@settings(max_examples=150, deadline=None)
@given(
    kinds=st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.sampled_from([0, 7])), min_size=6, max_size=6),
    sizes=st.lists(st.sampled_from([20, 31, 100, 101, 700, 1448]), min_size=6, max_size=6),
    stream=st.lists(steps, min_size=1, max_size=80),
    layout=st.one_of(st.just(PLAIN), layouts),
)
def test_any_stream(
    harness: Harness,
    kinds: list[tuple[str, int]],
    sizes: list[int],
    stream: list[tuple[int, str]],
    layout: Layout,
) -> None:
    flows = [
        Flow(number, *KINDS[name], vlan, size)
        for number, ((name, vlan), size) in enumerate(zip(kinds, sizes, strict=True))
    ]
    frames = [flows[number].frame(quirk) for number, quirk in stream]
    expect_the_same(frames, exchange(harness, frames, layout))


@pytest.mark.parametrize("vlan", [0, 7])
@pytest.mark.parametrize(("tcp", "ipv6"), KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("quirk", ["", "csum offload"])
def test_a_burst_of_one_flow_is_one_superframe(
    harness: Harness, tcp: bool, ipv6: bool, vlan: int, quirk: str
) -> None:
    flow = Flow(1, tcp, ipv6, vlan)
    frames = [flow.frame(quirk) for _ in range(20)] + [flow.frame("one byte")]
    shared = harness.segment.rings[1]
    counters = ("packets", "bytes", "coalesced", "coalesced_frames", "coalesced_saved_bytes")
    before = [int(shared[name]) for name in counters]
    packets = exchange(harness, frames)
    assert len(packets) == 1
    assert packets[0].gso_type == ((GSO_TCPV6 if ipv6 else GSO_TCPV4) if tcp else GSO_UDP_L4)
    assert packets[0].gso_size == flow.size
    assert [piece for packet in packets for piece in segment(packet)] == [
        piece for frame in frames for piece in as_sent(frame)
    ]
    after = [int(shared[name]) for name in counters]
    grown = [new - old for new, old in zip(after, before, strict=True)]
    octets = sum(len(frame.data) for frame in frames)
    assert grown == [21, octets, 21, 1, octets - len(packets[0].frame)]


@pytest.mark.parametrize(("tcp", "ipv6"), KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("quirk", QUIRKS)
def test_a_quirk_in_the_middle(harness: Harness, tcp: bool, ipv6: bool, quirk: str) -> None:
    flow = Flow(1, tcp, ipv6)
    frames = [flow.frame(), flow.frame(), flow.frame(quirk), flow.frame(), flow.frame()]
    packets = exchange(harness, frames)
    expect_the_same(frames, packets)
    apart = ANY | (TCP_ONLY if tcp else UDP_ONLY) | (IPV6_ONLY if ipv6 else IPV4_ONLY)
    ends = SHORTER | ({"psh", "fin"} if tcp else set())
    counts = [len(segment(packet)) for packet in packets if packet.gso_type and packet.gso_size == flow.size]
    if quirk in LATER and (tcp if quirk == "again" else not ipv6):
        assert counts == [3, 2]
    elif quirk in apart:
        assert counts[0] == 2
        assert counts[-1] in {2, 3}
    else:
        assert counts == ([3, 2] if quirk in ends else [5])


@pytest.mark.parametrize(("tcp", "ipv6"), KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("quirk", QUIRKS)
def test_nothing_but_a_quirk(harness: Harness, tcp: bool, ipv6: bool, quirk: str) -> None:
    flow = Flow(1, tcp, ipv6)
    frames = [flow.frame(quirk) for _ in range(5)]
    packets = exchange(harness, frames)
    expect_the_same(frames, packets)
    alone = NEVER | (NEVER_TCP if tcp else UDP_ONLY) | (IPV6_EXTENDED if ipv6 else NEVER_IPV4)
    assert len(packets) == (5 if quirk in alone else 1)


@pytest.mark.parametrize("ipv6", [False, True])
def test_options_are_compared_to_the_last_byte(harness: Harness, ipv6: bool) -> None:
    flow = Flow(1, tcp=True, ipv6=ipv6)
    frames = [flow.frame(quirk) for quirk in ["options"] * 3 + ["changed option"] * 2 + ["options"] * 2]
    packets = exchange(harness, frames)
    expect_the_same(frames, packets)
    assert [len(segment(packet)) for packet in packets] == [3, 2, 2]


def test_a_second_tag_hides_the_flow(harness: Harness) -> None:
    flow = Flow(1, tcp=False, ipv6=False, vlan=7)
    frames = [flow.frame("one more tag") for _ in range(5)]
    packets = exchange(harness, frames)
    assert [packet.frame for packet in packets] == [frame.data for frame in frames]


def test_flows_of_one_hash_are_told_apart(harness: Harness) -> None:
    def mixed(source: bytes) -> int:
        hashed = (int.from_bytes(ports, "little") ^ int.from_bytes(source, "little")) * 0x9E3779B1 & 0xFFFFFFFF
        return hashed ^ hashed >> 15

    ports = bytes([3, 1, 0, 9])
    sources = [bytes([10, 0, 0, number]) for number in (1, 3)]
    target = int.from_bytes(bytes([10, 0, 0, 2]), "little")
    targets = [target, target ^ mixed(sources[0]) ^ mixed(sources[1])]
    pairs = [
        (socket.inet_ntoa(source), socket.inet_ntoa(target.to_bytes(4, "little")))
        for source, target in zip(sources, targets, strict=True)
    ]
    frames = [
        Frame(bytes(
            Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:09")
            / IP(src=addresses[0], dst=addresses[1], id=identification)
            / UDP(sport=0x0301, dport=9)
            / bytes(100)
        ))
        for identification in range(1, 4) for addresses in pairs
    ]  # fmt: skip
    packets = exchange(harness, frames)
    expect_the_same(frames, packets)
    first, second = harness.worker.ctx.frames[0], harness.worker.ctx.frames[1]
    assert first.hashed == second.hashed
    assert [len(segment(packet)) for packet in packets] == [3, 3]


def test_flows_that_interleave_are_told_apart(harness: Harness) -> None:
    flows = [Flow(number, *KINDS[name], vlan) for vlan in (0, 3) for number, name in enumerate(KINDS)]
    frames = [flow.frame() for _ in range(8) for flow in flows]
    packets = exchange(harness, frames)
    # The tag is no part of a flow: with and without, they end each other's superframes.
    expect_the_same(frames, packets)
    assert len(packets) == 64
    flows = [Flow(number + 10, *KINDS[name]) for number, name in enumerate([*KINDS, *KINDS])]
    frames = [flow.frame() for _ in range(8) for flow in flows]
    packets = exchange(harness, frames)
    expect_the_same(frames, packets)
    assert len(packets) == len(flows)


@pytest.mark.parametrize(
    ("numbers", "counts"),
    [((5, 5, 7), [1, 1, 1]), ((5, 6, 5), [2, 1]), ((65535, 0, 1), [3]), ((0, 0, 0), [1, 1, 1])],
)
def test_identifications_count_up_by_one(harness: Harness, numbers: Sequence[int], counts: list[int]) -> None:
    flow = Flow(1, tcp=False, ipv6=False)
    frames = []
    for number in numbers:
        flow.identification = number
        frames.append(flow.frame())
    packets = exchange(harness, frames)
    expect_the_same(frames, packets)
    assert [len(segment(packet)) for packet in packets] == counts


@pytest.mark.parametrize(("tcp", "ipv6"), KINDS.values(), ids=KINDS.keys())
def test_checksums_are_verified_over_buffers_of_any_cut(harness: Harness, tcp: bool, ipv6: bool) -> None:
    for cuts in [(5,), (12, 14), (12, 14, 20, 7, 1, 1, 3), (1,) * 60, (12, 60, 3, 3, 3, 3, 3, 3, 3)]:
        flow = Flow(1, tcp, ipv6, size=201)
        frames = [flow.frame() for _ in range(6)]
        packets = exchange(harness, frames, Layout(cuts))
        expect_the_same(frames, packets)
        assert len(packets) == 1


def test_a_superframe_has_as_many_pieces_as_writev_takes(harness: Harness) -> None:
    flow = Flow(1, tcp=False, ipv6=False, size=100)
    frames = [flow.frame() for _ in range(60)]
    packets = exchange(harness, frames, Layout((12, 42, *(4,) * 15), 0))
    expect_the_same(frames, packets)
    assert [len(segment(packet)) for packet in packets] == [60]
    flow = Flow(1, tcp=False, ipv6=False, size=100)
    frames = [flow.frame() for _ in range(64)]
    packets = exchange(harness, frames, Layout((12, 42, *(4,) * 15), 0))
    expect_the_same(frames, packets)
    assert [len(segment(packet)) if packet.gso_type else 1 for packet in packets] == [63, 1]


def test_a_superframe_has_64_frames_at_most(harness: Harness) -> None:
    flow = Flow(1, tcp=False, ipv6=False, size=100)
    frames = [flow.frame() for _ in range(256)]
    packets = exchange(harness, frames)
    expect_the_same(frames, packets)
    assert [len(segment(packet)) for packet in packets] == [64] * 4


def test_a_burst_ends_with_a_full_superframe(harness: Harness) -> None:
    """What is behind it of other flows would be the beginning of short ones."""
    flows = [Flow(number, tcp=False, ipv6=False, size=1472) for number in range(4)]
    frames = [flow.frame() for _ in range(60) for flow in flows]
    packets = exchange(harness, frames)
    expect_the_same(frames, packets)
    assert [len(segment(packet)) for packet in packets] == [44, 43, 43, 43, 17, 17, 17, 16]


def test_a_frame_in_too_many_pieces_goes_alone(harness: Harness) -> None:
    flow = Flow(1, tcp=False, ipv6=False, size=201)
    frames = [flow.frame() for _ in range(6)]
    packets = exchange(harness, frames, Layout((12, 60, *(1,) * 20)))
    expect_the_same(frames, packets)
    assert len(packets) == 6


@pytest.mark.parametrize("allowed", [0, COALESCE_TCP, COALESCE_UDP])
def test_what_is_not_to_be_coalesced_is_not(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    monkeypatch.setattr(rings, "COALESCE_ALL", allowed)
    harness.set_ring(harness.tx, None)
    flows = [Flow(number, *kind) for number, kind in enumerate(KINDS.values())]
    frames = [flow.frame() for _ in range(5) for flow in flows]
    packets = exchange(harness, frames)
    expect_the_same(frames, packets)
    assert len(packets) == {0: 20, COALESCE_TCP: 12, COALESCE_UDP: 12}[allowed]
    monkeypatch.undo()
    harness.set_ring(harness.tx, None)


if not JIT:
    # A system call is replaced here, which compiled code does not notice: test_interpreted.py runs it.
    def test_a_host_without_udp_segmentation_gets_single_frames(monkeypatch: pytest.MonkeyPatch) -> None:
        refused = []

        def writev(fd: int, iovecs: int, count: int) -> int:
            header = load_i64(iovecs)
            if load_u8(header + 1) == GSO_UDP_L4:
                refused.append(count)
                return -errno.EINVAL
            return syscalls.writev(fd, iovecs, count)

        monkeypatch.setattr(write, "writev", writev)
        with Harness() as harness:
            harness.start()
            udp, tcp = Flow(1, tcp=False, ipv6=False), Flow(2, tcp=True, ipv6=True)
            frames = [flow.frame() for _ in range(5) for flow in (udp, tcp)]
            packets = exchange(harness, frames)
            assert [packet.gso_type for packet in packets] == [0, 0, 0, 0, 0, GSO_TCPV6]
            expect_the_same(frames, packets)
            harness.sender.send([udp.frame() for _ in range(5)])
            assert len(refused) == 1
            assert harness.segment.rings[1].packets == 15
            assert sum(harness.segment.rings[1].drops) == 0


def test_a_superframe_ends_before_64_kib() -> None:
    with Harness(sizes=(1 << 20, 16 << 20)) as harness:
        harness.start()
        for tcp, ipv6 in KINDS.values():
            flow = Flow(1, tcp, ipv6, size=8948)
            frames = [flow.frame() for _ in range(9)]
            packets = exchange(harness, frames)
            expect_the_same(frames, packets)
            assert [len(segment(packet)) if packet.gso_type else 1 for packet in packets] == [7, 2]


@pytest.mark.parametrize(("tcp", "ipv6"), KINDS.values(), ids=KINDS.keys())
def test_a_header_of_ten_bytes(tcp: bool, ipv6: bool) -> None:
    with Harness(features=0) as harness:
        harness.start()
        flow = Flow(1, tcp, ipv6, size=8948)
        frames = [flow.frame() for _ in range(4)]
        packets = exchange(harness, frames, header_bytes=10)
        assert len(packets) == 1
        expect_the_same(frames, packets)
