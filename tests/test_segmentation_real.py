"""Segmentation offload of UDP on a real TAP, both ways: every datagram, its bytes, boundaries and order.

The host's own sockets send with UDP_SEGMENT; whether the TAP gives superframes is the device's affair, and the
driver's whether it takes them.
"""

import random
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pyroute2 import IPRoute
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from mpnet.guest.driver import Driver, Setup
from mpnet.guest.frame import Frame, NetHeader
from mpnet.virtio.features import Feature, mask
from mpnet.virtio.net_header import F_NEEDS_CSUM, GSO_UDP_L4
from tests.real.netns import network_namespace, tap
from tests.real.running import Running
from tests.segmenter import Packet, segment
from tests.superframes import Kind, superframe

UDP_SEGMENT = 103
GUEST_MAC = "02:00:00:00:00:02"
ADDRESSES = {4: ("10.81.0.1", "10.81.0.2"), 6: ("fd81::1", "fd81::2")}
PORT = 4000
FLOWS = 4
USO = mask(Feature.GUEST_USO4, Feature.GUEST_USO6, Feature.HOST_USO)
DRIVERS = {
    "csum": Setup().features,
    "nothing": Setup().features & ~mask(Feature.GUEST_CSUM, Feature.MRG_RXBUF),
    "uso": Setup().features | USO,
}


@pytest.fixture(scope="module", params=["gso=on", "gso=off"])
def device(request: pytest.FixtureRequest) -> Iterator[Running]:
    with (
        network_namespace(),
        tap("tap0", "10.81.0.1/24", "fd81::1/64") as name,
        tempfile.TemporaryDirectory(prefix="mpnet-") as folder,
        Running(Path(folder), name, words=request.param) as running,
    ):
        with IPRoute() as ip:
            index = ip.link_lookup(ifname=name)[0]
            for version in (4, 6):
                ip.neigh("replace", dst=ADDRESSES[version][1], lladdr=GUEST_MAC, ifindex=index)
        yield running


def segmented(device: Running) -> float:
    return device.metric("mpnet_queue_rx_segmented_packets_total")


def udp_socket(version: int) -> socket.socket:
    return socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("name", DRIVERS)
def test_every_datagram_reaches_the_driver(device: Running, name: str, version: int) -> None:
    generator = random.Random(version)
    gso = device.show()["config"]["gso"]
    before = segmented(device)
    with ExitStack() as stack:
        driver = stack.enter_context(Driver.connect(device.socket, Setup(features=DRIVERS[name], ring_size=128)))
        # Too few for a superframe of the longest datagrams, without MRG_RXBUF as well.
        driver.post(0, 0 if name == "nothing" else 1600, 40)
        flows = [stack.enter_context(udp_socket(version)) for _ in range(FLOWS)]
        for number, flow in enumerate(flows):
            flow.bind((ADDRESSES[version][0], PORT + number))
        for _ in range(20):
            sent: dict[int, list[bytes]] = {PORT + number: [] for number in range(FLOWS)}
            for number, flow in enumerate(flows):
                size = generator.choice([1, 100, 101, 1400])
                data = generator.randbytes(size * generator.randrange(1, 30) + generator.randrange(size))
                flow.setsockopt(socket.SOL_UDP, UDP_SEGMENT, size)
                flow.sendto(data, (ADDRESSES[version][1], 9))
                sent[PORT + number] = [data[at : at + size] for at in range(0, len(data), size)]
            got: dict[int, list[bytes]] = {port: [] for port in sent}
            while sum(map(len, got.values())) < sum(map(len, sent.values())):
                frames = driver.receive(0)
                assert frames, "datagrams are missing"
                for frame in frames:
                    for datagram in datagrams(frame):
                        got[datagram.sport].append(bytes(datagram.payload))
            assert got == sent
    grown = segmented(device) - before
    assert (grown > 100) == (gso and name != "uso"), grown


def datagrams(frame: Frame) -> Iterator[UDP]:
    """The datagrams of a frame that is one or a superframe of many, their checksums verified."""
    header = frame.header
    packet = Packet(
        header.flags & F_NEEDS_CSUM,
        header.gso_type,
        header.header_length,
        header.gso_size,
        header.csum_start,
        header.csum_offset,
        frame.data,
    )
    for data in segment(packet):
        parsed = Ether(data)
        if UDP in parsed and PORT <= parsed[UDP].sport < PORT + FLOWS:
            told = parsed[UDP].chksum
            del parsed[UDP].chksum
            assert Ether(bytes(parsed))[UDP].chksum == told
            yield parsed[UDP]


@pytest.mark.parametrize("version", [4, 6])
def test_a_superframe_of_the_driver_reaches_its_socket_as_datagrams(device: Running, version: int) -> None:
    host, guest = ADDRESSES[version]
    content = random.Random(version).randbytes(25_050)
    with udp_socket(version) as sock, Driver.connect(device.socket, Setup(features=DRIVERS["uso"])) as driver:
        sock.bind((host, 9))
        sock.settimeout(60)
        network = IP(src=guest, dst=host) if version == 4 else IPv6(src=guest, dst=host)
        packet = superframe(Kind(tcp=False, ipv6=version == 6), 1000, content, network)
        header = NetHeader(
            F_NEEDS_CSUM, GSO_UDP_L4, packet.header_length, packet.gso_size, packet.start, packet.offset
        )
        driver.send(0, [Frame(host_mac() + packet.frame[6:], header)])
        pieces = [content[at : at + 1000] for at in range(0, len(content), 1000)]
        assert [sock.recv(1 << 16) for _ in pieces] == pieces


def host_mac() -> bytes:
    """The host's address on the TAP."""
    with IPRoute() as ip:
        return bytes.fromhex(ip.link("get", ifname="tap0")[0].get_attr("IFLA_ADDRESS").replace(":", ""))
