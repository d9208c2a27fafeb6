"""The embedded driver's parts on their own; the device, where one is needed, is a few lines of Python."""

import os
import struct
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.all import ARP, ICMP, IP, TCP, UDP, Ether, ICMPv6EchoRequest, ICMPv6ND_NS, IPv6, Raw

from mpnet.errors import ConfigError, GuestMemoryError, MpnetError
from mpnet.guest.chain import Arena, Layout
from mpnet.guest.driver import QueuePair
from mpnet.guest.frame import Frame, NetHeader
from mpnet.guest.memory import GuestMemory
from mpnet.guest.queue import Queue
from mpnet.guest.receiver import Receiver
from mpnet.guest.responder import Responder
from mpnet.guest.sink import make_sink, receive_burst
from mpnet.guest.source import make_source, send_burst
from mpnet.guest.stream import Stream
from mpnet.guest.traffic import Plan, Traffic
from mpnet.guest.virtqueue import BROKEN, NOTHING, add, add_one, notify, take
from mpnet.virtio.features import Feature, mask

SHM = Path("/dev/shm")  # noqa: S108 - where Linux shows POSIX shared memory
MEMORY = (4 << 20, 8 << 20)
SIZE = 8


class PythonDevice:
    """The device's side of a split queue, over guest memory."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.memory = queue.memory
        self.last = self.used = 0

    def heads(self) -> list[int]:
        """Chains made available since last asked."""
        size = self.queue.ring.size
        flags_index_entries = self.memory.read(self.queue.guest.avail, 4 + 2 * size)
        index, *entries = struct.unpack(f"<xxH{size}H", flags_index_entries)
        fresh = [entries[i % size] for i in range(self.last, self.last + ((index - self.last) & 0xFFFF))]
        self.last = index
        return fresh

    def buffers(self, head: int) -> list[tuple[int, int, int]]:
        """Address, length and flags of every descriptor of a chain, indirect ones resolved."""
        table, rows, index = self.queue.guest.descriptors, [], head
        while True:
            row = self.memory.read(table + 16 * index, 16)
            address, length, flags, index = struct.unpack("<QIHH", row)
            if flags & 4:
                table, index = address, 0
                continue
            rows.append((address, length, flags))
            if not flags & 1:
                return rows

    def gather(self, head: int) -> bytes:
        return b"".join(self.memory.read(address, length) for address, length, _ in self.buffers(head))

    def give_back(self, head: int, length: int = 0) -> None:
        place = self.queue.guest.used + 4 + 8 * (self.used % self.queue.ring.size)
        self.memory.write(place, struct.pack("<II", head, length))
        self.used = (self.used + 1) & 0xFFFF
        self.memory.write(self.queue.guest.used + 2, struct.pack("<H", self.used))

    def scatter(self, head: int, data: bytes) -> None:
        rest = data
        for address, length, flags in self.buffers(head):
            assert flags & 2
            self.memory.write(address, rest[:length])
            rest = rest[length:]
        assert not rest
        self.give_back(head, len(data))


@pytest.fixture
def memory():
    with GuestMemory(MEMORY) as memory:
        yield memory


@pytest.fixture
def queue(memory):
    queue = Queue(memory, 1, SIZE)
    yield queue
    queue.close()


@pytest.mark.parametrize("backing", ["memfd", "shm"])
def test_memory_is_read_as_written_across_regions(backing: str) -> None:
    before = set(SHM.iterdir())
    with GuestMemory(MEMORY, backing) as memory:  # type: ignore[arg-type]
        assert set(SHM.iterdir()) == before
        border = memory.regions[1].guest_address
        memory.write(border - 3, b"abcdef")
        assert memory.read(border - 3, 6) == b"abcdef"
        assert os.pread(memory.fd, 6, memory.regions[1].offset - 3) == b"abcdef"
        with pytest.raises(GuestMemoryError):
            memory.host_address(border - 3, 6)
        with pytest.raises(GuestMemoryError):
            memory.write(border + memory.regions[1].size - 1, b"ab")
        with pytest.raises(GuestMemoryError):
            memory.allocate(sum(MEMORY))


def test_regions_of_odd_sizes_are_refused() -> None:
    with pytest.raises(GuestMemoryError, match="multiple of 4096"):
        GuestMemory((1 << 20, 5000))


@given(
    cuts=st.lists(st.integers(1, 40), max_size=30),
    direct=st.none() | st.integers(0, 4),
    data=st.binary(min_size=1, max_size=300),
)
@settings(max_examples=60, deadline=None)
def test_any_layout_holds_the_same_bytes(cuts: list[int], direct: int | None, data: bytes) -> None:
    with GuestMemory(MEMORY) as memory, closing(Queue(memory, 1, 64)) as queue:
        arena = Arena(memory, 1 << 16)
        buffer = arena.place(len(data), Layout(tuple(cuts), direct), writable=False)
        assert buffer is not None
        arena.fill(buffer, data)
        assert add(queue.virtqueue, buffer.chain, len(buffer.chain)) != NOTHING
        notify(queue.virtqueue)
        device = PythonDevice(queue)
        (head,) = device.heads()
        assert device.gather(head) == data
        assert len(device.buffers(head)) == len(buffer.spans)
        assert arena.guards_stand(buffer)


@given(st.lists(st.tuples(st.integers(1, 3), st.randoms(use_true_random=False)), max_size=60))
@settings(max_examples=60, deadline=None)
def test_descriptors_are_never_shared_whatever_order_they_return_in(steps: list) -> None:
    with GuestMemory(MEMORY) as memory, closing(Queue(memory, 1, SIZE)) as queue:
        device, held = PythonDevice(queue), {}
        for number, (count, rng) in enumerate(steps):
            chain = np.array([[0x1000 + number, 64, 0]] * count, np.int64)
            free = SIZE - sum(held.values())
            head = add(queue.virtqueue, chain, count)
            assert (head == NOTHING) == (free < count)
            if head != NOTHING:
                assert head not in held
                held[head] = count
                notify(queue.virtqueue)
                assert device.heads() == [head]
                assert [row[0] for row in device.buffers(head)] == [0x1000 + number] * count
            elif held:
                back = rng.choice(sorted(held))
                device.give_back(back, 7)
                assert take(queue.virtqueue) == (back, 7)
                del held[back]
            assert take(queue.virtqueue) == (NOTHING, 0)


@pytest.mark.parametrize("head", [3, SIZE, 0xFFFFFFFF])
def test_a_chain_the_device_does_not_hold_breaks_the_queue(queue: Queue, head: int) -> None:
    add_one(queue.virtqueue, 0x1000, 64, 0)
    PythonDevice(queue).give_back(head)
    assert take(queue.virtqueue)[0] == BROKEN
    with pytest.raises(MpnetError, match="does not hold on ring 1"):
        queue.take()


def test_kicks_follow_the_used_flags(queue: Queue) -> None:
    add_one(queue.virtqueue, 0x1000, 64, 0)
    assert notify(queue.virtqueue)
    assert os.eventfd_read(queue.ring.kick_fd) == 1
    queue.memory.write(queue.guest.used, b"\1\0")
    add_one(queue.virtqueue, 0x1000, 64, 0)
    assert not notify(queue.virtqueue)
    assert not notify(queue.virtqueue)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(queue.ring.kick_fd)


@pytest.mark.parametrize(("event", "kicks"), [(0, [True, False, False]), (1, [False, True, False])])
def test_kicks_follow_the_event_index(memory: GuestMemory, event: int, kicks: list[bool]) -> None:
    queue = Queue(memory, 1, SIZE, features=mask(Feature.RING_EVENT_IDX))
    memory.write(queue.guest.used + 4 + 8 * SIZE, struct.pack("<H", event))
    seen = []
    for _ in range(3):
        add_one(queue.virtqueue, 0x1000, 64, 0)
        seen.append(bool(notify(queue.virtqueue)))
    assert seen == kicks
    queue.close()


def test_waiting_ends_by_a_call_or_at_the_deadline(queue: Queue) -> None:
    assert not queue.wait(0)
    add_one(queue.virtqueue, 0x1000, 64, 0)
    PythonDevice(queue).give_back(0)
    assert queue.wait(0)


def receiver_with(memory: GuestMemory, sizes: int, *, mergeable: bool = True):
    queue = Queue(memory, 0, SIZE)
    receiver = Receiver(queue, 12, mergeable=mergeable)
    receiver.post(sizes, SIZE)
    return queue, receiver, PythonDevice(queue)


def test_a_frame_in_several_buffers_is_put_together(memory: GuestMemory) -> None:
    queue, receiver, device = receiver_with(memory, 40)
    first, second, third, *_ = device.heads()
    device.scatter(first, NetHeader(num_buffers=2).pack() + b"a" * 28)
    device.scatter(second, b"b" * 5)
    device.scatter(third, NetHeader(num_buffers=1, flags=2).pack() + b"c" * 3)
    frames = receiver.receive(2, 1)
    assert frames == [
        Frame(b"a" * 28 + b"b" * 5, NetHeader(num_buffers=2)),
        Frame(b"ccc", NetHeader(num_buffers=1, flags=2)),
    ]
    assert receiver.receive(1, 0) == []
    assert len(device.heads()) == 3
    queue.close()


@pytest.mark.parametrize(
    ("data", "length", "problem"),
    [(bytes(12), 12, "num_buffers 0"), (bytes(5), 5, "less than a header"), (bytes(40), 41, "wrote past")],
)
def test_a_device_that_miscounts_is_caught(memory: GuestMemory, data: bytes, length: int, problem: str) -> None:
    queue, receiver, device = receiver_with(memory, 40)
    head = device.heads()[0]
    memory.write(device.buffers(head)[0][0], data)
    device.give_back(head, length)
    with pytest.raises(MpnetError, match=problem):
        receiver.receive(1, 1)
    queue.close()


def test_a_device_that_writes_past_a_piece_is_caught(memory: GuestMemory) -> None:
    queue, receiver, device = receiver_with(memory, 40)
    head = device.heads()[0]
    address, length, _ = device.buffers(head)[0]
    memory.write(address, NetHeader(num_buffers=1).pack().ljust(length + 1, b"x"))
    device.give_back(head, length)
    with pytest.raises(MpnetError, match="wrote past"):
        receiver.receive(1, 1)
    queue.close()


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
