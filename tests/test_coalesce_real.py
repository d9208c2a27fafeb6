"""Coalescing on a real TAP: the host's own sockets get every datagram and byte, in order, as they were sent.

The embedded driver sends through ``mpnet run``, compiled and interpreted; the kernel segments what comes out.
"""

import itertools
import random
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from pyroute2 import IPRoute
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from mpnet.guest.driver import Driver, Setup
from mpnet.guest.frame import Frame
from mpnet.virtio.features import Feature, mask
from tests.quirky_stream import Flow
from tests.real.netns import network_namespace, tap
from tests.real.running import Running

HOST_MAC, GUEST_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
ADDRESSES = {4: ("10.80.0.1", "10.80.0.2"), 6: ("fd80::1", "fd80::2")}
PORT = 4000
FLOWS = 4
SETUP = Setup(features=Setup().features & ~mask(Feature.GUEST_CSUM))


@pytest.fixture(scope="module", params=["compiled", "interpreted"])
def device(request: pytest.FixtureRequest) -> Iterator[Running]:
    environment = {"MPNET_JIT": "0"} if request.param == "interpreted" else {}
    with (
        network_namespace(),
        tap("tap0", "10.80.0.1/24", "fd80::1/64") as name,
        tempfile.TemporaryDirectory(prefix="mpnet-") as folder,
        Running(Path(folder), name, environment=environment) as running,
    ):
        with IPRoute() as ip:
            index = ip.link_lookup(ifname=name)[0]
            ip.link("set", index=index, address=HOST_MAC)
            for version in (4, 6):
                ip.neigh("replace", dst=ADDRESSES[version][1], lladdr=GUEST_MAC, ifindex=index)
        yield running


def headers(version: int) -> Packet:
    host, guest = ADDRESSES[version]
    network = IP(src=guest, dst=host, flags="DF") if version == 4 else IPv6(src=guest, dst=host)
    return Ether(src=GUEST_MAC, dst=HOST_MAC) / network


def numbered(packet: Packet, number: int) -> Frame:
    """The packet as a frame, with the identification a sender that counts gives it."""
    if IP in packet:
        packet[IP].id = number & 0xFFFF
    return Frame(bytes(packet))


@pytest.mark.parametrize("version", [4, 6])
def test_every_datagram_reaches_its_socket(device: Running, version: int) -> None:
    generator = random.Random(version)
    host = ADDRESSES[version][0]
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(
                socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
            )
            for _ in range(FLOWS)
        ]
        for number, sock in enumerate(sockets):
            sock.bind((host, PORT + number))
            sock.settimeout(60)
        driver = stack.enter_context(Driver.connect(device.socket, SETUP))
        before = device.metric("mpnet_queue_tx_coalesced_packets_total")
        identifications = [itertools.count(60000) for _ in range(FLOWS)]
        for _ in range(20):
            sent: list[list[bytes]] = [[] for _ in range(FLOWS)]
            frames = []
            size = generator.choice([1, 100, 101, 1000, 1452])
            for _ in range(60):
                flow = generator.randrange(FLOWS)
                length = generator.choice([size] * 12 + [size // 2 or 1, 1])
                sent[flow].append(generator.randbytes(length))
                packet = headers(version) / UDP(sport=9, dport=PORT + flow) / sent[flow][-1]
                if generator.random() < 0.05:
                    packet[UDP].chksum = 0x1234  # not to be delivered
                    sent[flow].pop()
                frames.append(numbered(packet, next(identifications[flow])))
            driver.send(0, frames)
            for sock, expected in zip(sockets, sent, strict=True):
                assert [sock.recv(1 << 16) for _ in expected] == expected
                assert not more_has_come(sock)
        assert device.metric("mpnet_queue_tx_coalesced_packets_total") - before > 20 * 30


def more_has_come(sock: socket.socket) -> bool:
    """Whether there is more: a device that has used all its buffers has delivered everything."""
    sock.setblocking(False)
    try:
        sock.recv(1)
    except BlockingIOError:
        return False
    finally:
        sock.settimeout(60)
    return True


@pytest.mark.parametrize("version", [4, 6])
def test_a_tcp_stream_reaches_its_socket(device: Running, version: int) -> None:
    """A connection played by hand: the kernel acknowledges exactly what it took in."""
    content = random.Random(version).randbytes(40 * 1000)
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with socket.create_server((ADDRESSES[version][0], PORT), family=family) as server:
        server.settimeout(60)
        with Driver.connect(device.socket, SETUP) as driver:
            driver.post(0, 2048, 64)
            layer = headers(version) / TCP(sport=5, dport=PORT, seq=0xFFFFFF00, flags="S", window=60000)
            driver.send(0, [numbered(layer, 0)])
            answer = reply(driver, "SA")
            base = {"sport": 5, "dport": PORT, "ack": answer.seq + 1, "window": 60000}
            before = device.metric("mpnet_queue_tx_coalesced_packets_total")
            pieces = [content[at : at + 1000] for at in range(0, len(content), 1000)]
            sequence = 0xFFFFFF01
            for start in range(0, 40, 20):
                frames = [numbered(headers(version) / TCP(flags="A", seq=sequence & 0xFFFFFFFF, **base), start)]
                for number, piece in enumerate(pieces[start : start + 20], start + 1):
                    flags = "PA" if number % 7 == 0 else "A"
                    segment = TCP(flags=flags, seq=sequence & 0xFFFFFFFF, **base) / piece
                    frames.append(numbered(headers(version) / segment, number))
                    sequence += len(piece)
                driver.send(0, frames)
            connection, _ = server.accept()
            with connection:
                connection.settimeout(60)
                got = b""
                while len(got) < len(content):
                    got += connection.recv(1 << 16)
                assert got == content
            assert device.metric("mpnet_queue_tx_coalesced_packets_total") - before >= 30


def reply(driver: Driver, flags: str) -> TCP:
    """The host's next segment with these flags."""
    while True:
        frames = driver.receive(0)
        assert frames, "no answer"
        for frame in frames:
            packet = Ether(frame.data)
            if TCP in packet and packet[TCP].flags == flags:
                return packet[TCP]


def test_vlan_superframes_are_taken(device: Running) -> None:
    """The kernel takes a superframe behind a tag; a packet socket sees it as it is."""
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003)) as sock,
        Driver.connect(device.socket, SETUP) as driver,
    ):
        sock.bind(("tap0", 0x0003))
        sock.settimeout(60)
        flow = Flow(1, tcp=False, ipv6=False, vlan=7)
        frames: Sequence[Frame] = [flow.frame() for _ in range(10)]
        driver.send(0, frames)
        while True:
            frame = sock.recv(1 << 16)
            if len(frame) > len(frames[0].data) and frame[:6] == frames[0].data[:6]:
                break
        # The kernel takes the tag out of what it shows.
        assert frame.endswith(b"".join(sent.data[46:] for sent in frames))
