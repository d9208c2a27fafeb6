"""The embedded driver's traffic: what its source sends, what its sink sees, and what its responder answers."""

import struct
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.all import ARP, ICMP, IP, TCP, UDP, Ether, ICMPv6EchoRequest, ICMPv6ND_NS, IPv6, Raw

from mpnet.errors import ConfigError, MpnetError
from mpnet.guest.driver import QueuePair
from mpnet.guest.frame import NetHeader
from mpnet.guest.memory import GuestMemory
from mpnet.guest.queue import Queue
from mpnet.guest.responder import Responder
from mpnet.guest.sink import make_sink, receive_burst
from mpnet.guest.source import make_source, send_burst
from mpnet.guest.stream import Stream
from mpnet.guest.traffic import Plan, Traffic
from tests.python_device import PythonDevice

SIZE = 8


@pytest.fixture
def memory():
    with GuestMemory((4 << 20, 8 << 20)) as memory:
        yield memory


STREAMS = [
    Stream(flows=3),
    Stream(frame_bytes=1401),
    Stream(source="2001:db8::1", target="2001:db8::2", frame_bytes=77),
    Stream(tcp=True, frame_bytes=68),
    Stream(tcp=True, source="2001:db8::1", target="2001:db8::2", frame_bytes=1514),
]


@pytest.mark.parametrize("stream", STREAMS, ids=str)
def test_what_the_source_sends_is_right_on_the_wire(memory: GuestMemory, stream: Stream) -> None:
    queue = Queue(memory, 1, SIZE)
    source = make_source(memory, SIZE, stream, 12, burst=5, flow_run=1)
    source.state[0].limit = 5
    assert send_burst(queue.virtqueue, source) == 5
    device = PythonDevice(queue)
    for number, head in enumerate(device.heads()):
        data = device.gather(head)
        assert data[:12] == bytes(12)
        packet = Ether(data[12:])
        again = Ether(bytes(packet))
        layer = TCP if stream.tcp else UDP
        for part in (IP, layer):
            if part in again:
                del again[part].chksum
        assert bytes(again) == data[12:]
        assert packet[layer].sport == stream.first_port + number % stream.flows
        if stream.tcp:
            assert packet[TCP].seq == 1 + number // stream.flows * stream.segment_bytes
        assert len(data) == 12 + stream.frame_bytes
        assert struct.unpack_from("<I", bytes(packet[layer].payload), 4)[0] == number // stream.flows
    queue.close()


def test_an_offloaded_frame_names_its_segments(memory: GuestMemory) -> None:
    stream = Stream(frame_bytes=200, segments=7)
    header, frame = stream.header(), stream.frame()
    assert header == NetHeader(1, 5, 42, 158, 34, 6)
    assert len(frame) == 42 + 7 * 158
    assert Ether(frame)[UDP].len == 8 + 7 * 158
    pseudo = Stream(frame_bytes=200, partial_checksum=True)
    assert pseudo.header() == NetHeader(1, 0, 42, 0, 34, 6)
    packet = Ether(pseudo.frame())[IP]
    folded = struct.pack("!4s4sHH", b"\xc0\x00\x02\x01", b"\xc0\x00\x02\x02", 17, 166)
    words = sum(struct.unpack("!6H", folded))
    assert packet[UDP].chksum == (words & 0xFFFF) + (words >> 16)


@pytest.mark.parametrize(
    ("stream", "missing"),
    [
        (Stream(partial_checksum=True), "CSUM"),
        (Stream(segments=2), "CSUM and HOST_USO"),
        (Stream(segments=2, tcp=True, frame_bytes=100), "CSUM and HOST_TSO4"),
    ],
    ids=["checksum", "udp", "tcp"],
)
def test_an_offload_that_was_not_negotiated_is_refused(memory: GuestMemory, stream: Stream, missing: str) -> None:
    with closing(Queue(memory, 0, SIZE)) as rx, closing(Queue(memory, 1, SIZE)) as tx:
        with pytest.raises(MpnetError, match=f"needs {missing},"):
            Traffic(QueuePair(rx, tx, 0), stream, Plan())
        everything = (1 << 64) - 1
        assert Traffic(QueuePair(rx, tx, everything), stream, Plan())


@pytest.mark.parametrize("wrong", [{"frame_bytes": 59}, {"flows": 65000}, {"frame_bytes": 1514, "segments": 50}])
def test_a_stream_that_cannot_be_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Stream(**wrong)  # type: ignore[arg-type]


class Link:
    """A source and a sink, with the device between them in the test's hands."""

    def __init__(self, memory: GuestMemory, stream: Stream) -> None:
        self.tx, self.rx = Queue(memory, 1, SIZE), Queue(memory, 0, SIZE)
        self.source = make_source(memory, SIZE, stream, 12, burst=SIZE, flow_run=1)
        self.sink = make_sink(memory, SIZE, stream, 12, buffer_bytes=512, burst=SIZE)
        state = self.sink.state[0]
        state.enabled = state.check = state.mergeable = 1
        self.source.state[0].limit = -1
        send_burst(self.tx.virtqueue, self.source)
        receive_burst(self.rx.virtqueue, self.sink)
        device = PythonDevice(self.tx)
        self.frames = [device.gather(head)[12:] for head in device.heads()]
        self.device = PythonDevice(self.rx)
        self.free = self.device.heads()

    def deliver(self, *frames: bytes, header: NetHeader = NetHeader(num_buffers=1)) -> dict[str, int]:  # noqa: B008
        for frame in frames:
            self.device.scatter(self.free.pop(0), header.pack() + frame)
        return self.counters()

    def counters(self) -> dict[str, int]:
        receive_burst(self.rx.virtqueue, self.sink)
        names = ("frames", "packets", "corrupt", "lost", "reordered", "other")
        return {name: int(self.sink.state[0][name]) for name in names if self.sink.state[0][name]}


@pytest.fixture
def link(memory):
    link = Link(memory, Stream(flows=2, frame_bytes=301))
    yield link
    link.tx.close()
    link.rx.close()


def test_the_sink_knows_its_stream(link: Link) -> None:
    assert link.deliver(*link.frames) == {"frames": 8, "packets": 8}
    assert list(link.sink.received) == [4, 4]


def test_the_sink_counts_loss_and_order(link: Link) -> None:
    f = link.frames
    assert link.deliver(f[0], f[4], f[2]) == {"frames": 3, "packets": 3, "lost": 1, "reordered": 1}


@pytest.mark.parametrize("place", [42, 47, 52, 54, 55, 56, 100, 300])
def test_the_sink_sees_any_damage(link: Link, place: int) -> None:
    damaged = bytearray(link.frames[0])
    damaged[place] ^= 0x81
    result = link.deliver(bytes(damaged))
    assert result in ({"frames": 1, "corrupt": 1}, {"frames": 1, "other": 1})
    assert link.deliver(link.frames[0][:-1])["corrupt"] >= 1


def test_the_sink_takes_merged_datagrams_apart(link: Link) -> None:
    first, second = link.frames[0], link.frames[2]
    header = NetHeader(1, 5, 42, 259, 34, 6, num_buffers=2)
    data = header.pack() + first + second[42:]
    link.device.scatter(link.free.pop(0), data[:512])
    assert link.counters() == {}
    link.device.scatter(link.free.pop(0), data[512:])
    assert link.counters() == {"frames": 1, "packets": 2}
    assert link.sink.state[0].merged_frames == link.sink.state[0].gso_frames == 1


def test_the_sink_lets_other_traffic_be(link: Link) -> None:
    arp = bytes(Ether() / ARP() / Raw(bytes(40)))
    udp = bytes(Ether() / IP() / UDP() / Raw(bytes(40)))
    assert link.deliver(arp, udp, b"", b"x") == {"frames": 4, "other": 4}


MAC = "02:00:00:00:00:05"
ME4, ME6 = "192.0.2.5", "2001:db8::5"
RESPONDER = Responder(bytes.fromhex(MAC.replace(":", "")), (ME4, ME6))
HOST = Ether(src="02:00:00:00:00:09", dst=MAC)
HOST4, HOST6 = IP(src="192.0.2.9", dst=ME4), IPv6(src="2001:db8::9", dst=ME6)


def respond(request: Ether) -> Ether:
    answer = RESPONDER.answer(bytes(request))
    assert answer is not None
    reply = Ether(answer)
    assert (reply.src, reply.dst) == (MAC, "02:00:00:00:00:09")
    again = Ether(answer)
    for layer in again.layers():
        for field in ("chksum", "cksum"):
            if field in again[layer].fields and layer is not ARP:
                delattr(again[layer], field)
    assert bytes(again) == answer
    return reply


def test_arp_is_answered() -> None:
    reply = respond(HOST / ARP(op=1, hwsrc="02:00:00:00:00:09", psrc="192.0.2.9", pdst=ME4))[ARP]
    assert (reply.op, reply.hwsrc, reply.psrc, reply.pdst) == (2, MAC, ME4, "192.0.2.9")


def test_neighbours_are_answered() -> None:
    reply = respond(HOST / IPv6(src="2001:db8::9", dst="ff02::1:ff00:5") / ICMPv6ND_NS(tgt=ME6))
    assert reply[IPv6].dst == "2001:db8::9"
    assert reply["ICMPv6ND_NA"].tgt == ME6
    assert reply["ICMPv6ND_NA"].S == 1
    assert reply["ICMPv6NDOptDstLLAddr"].lladdr == MAC


@pytest.mark.parametrize("payload", [b"", b"odd", bytes(range(200))])
def test_echoes_and_datagrams_are_answered(payload: bytes) -> None:
    reply = respond(HOST / HOST4 / ICMP(type=8, id=7, seq=9) / Raw(payload))
    assert (reply[ICMP].type, reply[ICMP].id, reply[ICMP].seq) == (0, 7, 9)
    assert bytes(reply[ICMP].payload) == payload
    reply = respond(HOST / HOST6 / ICMPv6EchoRequest(id=7, seq=9, data=payload))
    assert reply["ICMPv6EchoReply"].data == payload
    for network in (HOST4, HOST6):
        reply = respond(HOST / network / UDP(sport=1000, dport=7) / Raw(payload))
        assert (reply[UDP].sport, reply[UDP].dport, bytes(reply[UDP].payload)) == (7, 1000, payload)


@pytest.mark.parametrize(
    "request_frame",
    [
        HOST / ARP(op=1, pdst="192.0.2.77"),
        HOST / ARP(op=2, pdst=ME4),
        HOST / IP(src="192.0.2.9", dst="192.0.2.77") / ICMP(),
        HOST / IP(src="192.0.2.9", dst=ME4, flags="MF") / ICMP(),
        HOST / HOST4 / TCP(),
        HOST / HOST6 / TCP(),
        HOST / IPv6(src="2001:db8::9", dst="ff02::1:ff00:77") / ICMPv6ND_NS(tgt="2001:db8::77"),
    ],
    ids=lambda packet: packet.summary(),
)
def test_what_is_not_for_it_is_left_alone(request_frame: Ether) -> None:
    assert RESPONDER.answer(bytes(request_frame)) is None


@given(st.binary(max_size=80), st.sampled_from([b"\x08\x00", b"\x86\xdd", b"\x08\x06"]))
def test_no_frame_upsets_the_responder(body: bytes, kind: bytes) -> None:
    answer = RESPONDER.answer(bytes(12) + kind + body)
    assert answer is None or answer[6:12] == RESPONDER.mac
