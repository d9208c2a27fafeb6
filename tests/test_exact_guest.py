"""A stock Linux guest and the host's own sockets, with coalescing and segmenting and without.

Every datagram is compared, its content and its place in its flow; of TCP every byte.
"""

import random
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mpnet.guest.linux.guest import LinuxGuest, Setup
from mpnet.guest.linux.qemu import Machine, VhostUserNic
from tests.real import counters, linux_guest
from tests.real.datagrams import batch, by_flow, difference, relay
from tests.real.netns import network_namespace, tap
from tests.real.release import NEWEST, RELEASE, taken
from tests.real.running import Running

ADDRESSES = {4: ("10.82.0.1", "10.82.0.2"), 6: ("fd82::1", "fd82::2")}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
BATCHES = 20


@dataclass(frozen=True)
class Station:
    """A guest on a device.

    Attributes:
        device: as it was started.
        guest: booted.
        together: whether frames may go together over the TAP.
    """

    device: Running
    guest: LinuxGuest
    together: bool

    def metric(self, name: str) -> float:
        """A counter of the device."""
        return self.device.metric(f"mpnet_queue_{name}_total")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("on", ""), id="on"),
        pytest.param(("off", ""), id="off"),
        pytest.param(("on", RELEASE), id="on-newest", marks=NEWEST),
    ],
)
def station(request: pytest.FixtureRequest) -> Iterator[Station]:
    (host, guest), (host6, guest6) = ADDRESSES.values()
    together, release = request.param
    with (
        taken(release),
        network_namespace(),
        tap("tap0", f"{host}/24", f"{host6}/64") as name,
        tempfile.TemporaryDirectory(prefix="mpnet-") as folder,
        Running(Path(folder), name, words=f"gro={together},gso={together}") as running,
        LinuxGuest(
            VhostUserNic(socket=str(running.socket)),
            Machine(accel="tcg", machine="pc", smp=1, memory_mib=512),
            Setup(addresses=[f"{guest}/24", f"{guest6}/64"]),
        ) as booted,
    ):
        yield Station(running, booted, together == "on")
        assert counters.dropped(running) == 0


@pytest.mark.parametrize("version", [4, 6])
def test_every_datagram_reaches_the_host(station: Station, version: int) -> None:
    generator = random.Random(version)
    before = station.metric("tx_coalesced_packets")
    with relay(station.guest, ADDRESSES[version]) as flows:
        for _ in range(BATCHES):
            messages = batch(generator, FAMILIES[version])
            wrong = difference(by_flow(messages), flows.to_host(messages))
            assert not wrong
    coalesced = station.metric("tx_coalesced_packets") - before
    assert coalesced > 1000 if station.together else coalesced == 0


@pytest.mark.parametrize("version", [4, 6])
def test_every_datagram_reaches_the_guest(station: Station, version: int) -> None:
    generator = random.Random(version)
    before = station.metric("rx_segmented_packets")
    with relay(station.guest, ADDRESSES[version]) as flows:
        for _ in range(BATCHES):
            messages = batch(generator, FAMILIES[version])
            wrong = difference(by_flow(messages), flows.to_guest(messages))
            assert not wrong
    segmented = station.metric("rx_segmented_packets") - before
    assert segmented > 1000 if station.together else segmented == 0


@pytest.mark.parametrize("version", [4, 6])
def test_every_byte_of_tcp_arrives_both_ways(station: Station, version: int) -> None:
    host = ADDRESSES[version][0]
    linux_guest.send_file(station.guest, host, random.Random(version).randbytes(2 << 20))
    linux_guest.receive_file(station.guest, host, 2 << 20)
