"""A stock Linux guest on mpnet's own device with 1, 2 and 4 queue pairs: all kinds of traffic, all counted."""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from mpnet.guest.linux.guest import LinuxGuest, Setup
from mpnet.guest.linux.qemu import Machine, VhostUserNic
from tests.real import counters, netns, vlan
from tests.real import linux_guest as traffic
from tests.real.running import Running, wait_until

HOST = "10.79.0.1"
GUEST = "10.79.0.2"
HOST6 = "fd00:79::1"
GUEST6 = "fd00:79::2"
MAC = "52:54:00:79:00:02"
TAP = "tap0"
MTU = 1500
JUMBO_MTU = 9000
MIB = 1 << 20
# More where there are most flows and queues.
FILE_BYTES = {1: 32 * MIB, 2: 32 * MIB, 4: 256 * MIB}
MANY_FLOWS = 64
DISCARD_PORT = 9


@dataclass
class Rig:
    """One booted guest on one device.

    Attributes:
        running: mpnet, serving the device.
        guest: attached to it.
        pairs: queue pairs of the device, all in use.
        told_mtu: what the guest's driver took from the device at boot.
    """

    running: Running
    guest: LinuxGuest
    pairs: int
    told_mtu: int


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((1, False), id="1-pairs"),
        # Kernel 7.2 counts by queue elsewhere than in ethtool -S.
        pytest.param((4, False), id="4-pairs"),
        pytest.param((2, True), id="2-packed-pairs"),
    ],
)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    pairs: int
    packed: bool
    pairs, packed = request.param
    with (
        netns.network_namespace(),
        netns.tap(TAP, f"{HOST}/24", f"{HOST6}/64"),
        tempfile.TemporaryDirectory() as folder,
        Running(Path(folder), TAP, pairs, words=f"mac={MAC}") as running,
    ):
        nic = VhostUserNic(socket=str(running.socket), queue_pairs=pairs, mac=MAC, mtu=JUMBO_MTU, packed=packed)
        machine = Machine(accel="tcg", machine="pc", smp=max(2, pairs))
        with LinuxGuest(nic, machine, Setup(addresses=[f"{GUEST}/24", f"{GUEST6}/64"])) as guest:
            told_mtu = int(guest.check("cat /sys/class/net/eth0/mtu"))
            guest.check(f"ip link set eth0 mtu {MTU}")
            assert ("RING_PACKED" in running.show()["features"]) == packed
            yield Rig(running, guest, pairs, told_mtu)


@contextmanager
def jumbo_frames(guest: LinuxGuest) -> Iterator[None]:
    """Raise the MTU at both ends for as long as the block lasts."""
    for mtu in (JUMBO_MTU, MTU):
        with IPRoute() as ip:
            ip.link("set", index=ip.link_lookup(ifname=TAP)[0], mtu=mtu)
        guest.check(f"ip link set eth0 mtu {mtu}")
        if mtu == JUMBO_MTU:
            yield


def test_the_guest_gets_what_the_device_is(rig: Rig) -> None:
    assert rig.guest.check("ethtool -i eth0").startswith("driver: virtio_net\n")
    assert rig.guest.check("cat /sys/class/net/eth0/address").strip() == MAC
    assert rig.told_mtu == JUMBO_MTU
    assert traffic.combined(rig.guest) == (rig.pairs, rig.pairs)
    assert rig.running.show()["enabled_pairs"] == rig.pairs


@pytest.mark.parametrize("host", [HOST, HOST6])
@pytest.mark.parametrize("size", [1, 1400, 30000])
def test_echo(rig: Rig, host: str, size: int) -> None:
    traffic.ping(rig.guest, host, size=size)


@pytest.mark.parametrize("host", [HOST, HOST6])
@pytest.mark.parametrize("reverse", [False, True], ids=["from-guest", "to-guest"])
def test_tcp(rig: Rig, host: str, reverse: bool) -> None:
    result = traffic.iperf3(rig.guest, host, "32M", reverse=reverse)
    assert result.streams == 4
    assert result.sent >= 32 * MIB
    assert result.received >= result.sent - result.streams * traffic.UNREAD_BYTES


def carried(rig: Rig, before: dict[str, counters.Count]) -> dict[str, int]:
    """Bytes that the device has counted since, by direction; what reached the host may not be counted yet."""
    now = counters.totals(counters.of_device(rig.running, rig.pairs))
    return {direction: now[direction].bytes - before[direction].bytes for direction in now}


@pytest.mark.parametrize("reverse", [False, True], ids=["from-guest", "to-guest"])
def test_udp(rig: Rig, reverse: bool) -> None:
    direction = "rx" if reverse else "tx"
    before = counters.totals(counters.of_device(rig.running, rig.pairs))
    assert traffic.iperf3(rig.guest, HOST, "2M", udp=True, reverse=reverse).sent >= 2 * MIB
    # Whether a busy machine's listener takes every datagram is not the device's doing.
    wait_until(lambda: carried(rig, before)[direction] >= 2 * MIB, "the device has counted all of it")


def test_file_to_the_guest_over_parallel_flows(rig: Rig) -> None:
    traffic.send_file(rig.guest, HOST, os.urandom(FILE_BYTES[rig.pairs]))


def test_file_from_the_guest_over_parallel_flows(rig: Rig) -> None:
    traffic.receive_file(rig.guest, HOST, FILE_BYTES[rig.pairs])


def test_jumbo_frames(rig: Rig) -> None:
    with jumbo_frames(rig.guest):
        assert rig.guest.check("cat /sys/class/net/eth0/mtu").strip() == str(JUMBO_MTU)
        before = counters.totals(counters.of_device(rig.running, rig.pairs))
        fragments = traffic.fragments(rig.guest)
        traffic.ping(rig.guest, HOST, count=3, size=JUMBO_MTU - 28)
        assert traffic.fragments(rig.guest) == fragments
        wait_until(lambda: min(carried(rig, before).values()) >= 3 * (JUMBO_MTU + 14), "whole frames are counted")
        traffic.send_file(rig.guest, HOST, os.urandom(8 * MIB))
        traffic.receive_file(rig.guest, HOST, 8 * MIB)


def test_vlan_tagged_frames(rig: Rig) -> None:
    with vlan.Station(TAP, 7, "10.79.7.1") as station:
        rig.guest.check("ip link add link eth0 name eth0.7 type vlan id 7 && ip link set eth0.7 up")
        rig.guest.check("ip address add 10.79.7.2/24 dev eth0.7")
        traffic.ping(rig.guest, "10.79.7.1", count=3, size=1472)
        rig.guest.check("ip link del eth0.7")
    assert station.echoes == 3


def test_every_queue_transmits(rig: Rig) -> None:
    before = counters.of_device(rig.running, rig.pairs)
    for cpu in range(rig.pairs):
        # Datagrams: what TCP sends upon an acknowledgement leaves on the processor that took the interrupt.
        traffic.iperf3(rig.guest, HOST, "1M", streams=8, cpu=cpu, udp=True)

    def sent() -> list[int]:
        after = counters.of_device(rig.running, rig.pairs)
        return [after["tx", queue].bytes - before["tx", queue].bytes for queue in range(rig.pairs)]

    wait_until(lambda: min(sent()) >= MIB, "each queue has carried its share")


def test_every_queue_receives(rig: Rig) -> None:
    before = counters.of_device(rig.running, rig.pairs)
    # Flows the guest has never sent on: the TAP spreads them by their hash alone.
    for _ in range(MANY_FLOWS):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flow:
            for _ in range(4):
                flow.sendto(bytes(1000), (GUEST, DISCARD_PORT))

    def received() -> list[int]:
        after = counters.of_device(rig.running, rig.pairs)
        return [after["rx", queue].packets - before["rx", queue].packets for queue in range(rig.pairs)]

    wait_until(lambda: sum(received()) >= 4 * MANY_FLOWS, "all datagrams are in the guest's queues")
    wait_until(lambda: all(received()), "each queue has received some")


def test_device_guest_and_tap_agree_on_every_frame(rig: Rig) -> None:
    def agree() -> bool:
        # The driver counts a frame it has sent when it takes back the buffer, which it may put off until it sends
        # again on that queue.
        for cpu in range(rig.pairs):
            rig.guest.check(f"taskset {1 << cpu:x} ping -c 1 {HOST}")
        device = counters.of_device(rig.running, rig.pairs)
        told.update(device=device, guest=counters.of_guest(rig.guest, rig.pairs), tap=counters.of_tap(TAP))
        return device == told["guest"] and counters.on_the_wire(rig.running, device) == told["tap"]

    told: dict[str, object] = {}
    try:
        wait_until(agree, "the counters agree")
    except AssertionError as error:
        raise AssertionError(f"{error}: {told}") from None
    for count in counters.of_device(rig.running, rig.pairs).values():
        assert count.packets > 0


def test_nothing_was_dropped(rig: Rig) -> None:
    assert counters.dropped(rig.running) == 0
    statistics = counters.link_statistics(TAP)
    # Not tx_dropped: the host's queue of 1000 frames runs over when the machine is too busy to empty it.
    assert [statistics[name] for name in ("rx_dropped", "rx_errors", "tx_errors", "rx_frame_errors")] == [0] * 4
    said = traffic.ethtool_statistics(rig.guest)
    assert {name: value for name, value in said.items() if "drops" in name and value} == {}
