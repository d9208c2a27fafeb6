"""A guest under User-Mode Linux: configuration space and control queue, served by mpnet to a stock driver."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpnet.guest.linux.guest import Setup
from tests.real import linux_guest, netns
from tests.real.flows import expect_answers
from tests.real.running import Running, wait_until
from tests.real.uml import UmlGuest

HOST = "10.79.0.1"
GUEST = "10.79.0.2"
MAC = "52:54:00:79:00:02"
MTU = 1400
PAIRS = 2


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with (
        netns.network_namespace(),
        netns.tap("tap0", f"{HOST}/24"),
        tempfile.TemporaryDirectory() as folder,
        Running(Path(folder), "tap0", PAIRS, words=f"mac={MAC},mtu={MTU}") as device,
    ):
        yield device


@pytest.fixture(scope="module")
def guest(running: Running) -> Iterator[UmlGuest]:
    with UmlGuest(running.socket, Setup(addresses=[f"{GUEST}/24"])) as booted:
        yield booted


@pytest.fixture(autouse=True)
def _no_command_refused(running: Running) -> Iterator[None]:
    yield
    assert "refused" not in running.log


def read(guest: UmlGuest, name: str) -> str:
    return guest.check(f"cat /sys/class/net/eth0/{name}").strip()


def rx_packets(running: Running, pair: int) -> float:
    return running.metric("mpnet_queue_rx_packets_total", queue=str(pair))


def test_configuration_space_is_mpnets(running: Running, guest: UmlGuest) -> None:
    assert read(guest, "address") == MAC
    assert int(read(guest, "mtu")) == MTU
    assert linux_guest.combined(guest) == (PAIRS, 1)  # of its one processor it makes one pair
    assert running.show()["session"]["front_end"]["name"] == "linux.uml"


def test_traffic_both_ways(running: Running, guest: UmlGuest) -> None:
    linux_guest.ping(guest, HOST)
    linux_guest.ping(guest, HOST, size=MTU - 28)
    for reverse in (False, True):
        assert linux_guest.iperf3(guest, HOST, "64M", reverse=reverse).received > 48 << 20
    linux_guest.send_file(guest, HOST, bytes(range(256)) * 4096 * 8)
    linux_guest.receive_file(guest, HOST, 8 << 20)
    carried = running.metrics()
    for direction in ("rx", "tx"):
        assert carried[f"mpnet_queue_{direction}_bytes_total", (("device", "net0"), ("queue", "0"))] > 48 << 20


def test_address_is_set_by_command(running: Running, guest: UmlGuest) -> None:
    for mac in ("52:54:00:79:00:99", MAC):
        guest.check(f"ip link set eth0 address {mac}")
        assert running.show()["mac"] == read(guest, "address") == mac
        linux_guest.ping(guest, HOST)


def test_queue_pairs_are_set_by_command(running: Running, guest: UmlGuest) -> None:
    for pairs in (2, 1, 2, 1):
        linux_guest.set_combined(guest, pairs)
        assert linux_guest.combined(guest) == (PAIRS, pairs)
        shown = running.show()
        assert shown["enabled_pairs"] == pairs
        assert shown["tap"]["attached"] == list(range(pairs))
        before = [rx_packets(running, pair) for pair in range(PAIRS)]
        expect_answers(GUEST)
        grown = [rx_packets(running, pair) > before[pair] for pair in range(PAIRS)]
        assert grown == [pair < pairs for pair in range(PAIRS)]


def test_link_goes_down_and_up(running: Running, guest: UmlGuest) -> None:
    """The guest hears of it over the back-end's channel, reads the status, and announces itself when asked to."""
    wait_until(lambda: read(guest, "operstate") == "up", "the link is up in the guest")
    running.call("device.set", device="net0", name="link", value="down")
    wait_until(lambda: read(guest, "operstate") == "down", "the link is down in the guest")
    commands = running.show()["rings"][-1]["packets"]
    running.call("device.set", device="net0", name="link", value="up")
    wait_until(lambda: read(guest, "operstate") == "up", "the link is up in the guest")
    wait_until(lambda: running.show()["rings"][-1]["packets"] == commands + 1, "the announcement is acknowledged")
    linux_guest.ping(guest, HOST)


def test_driver_is_bound_anew(running: Running, guest: UmlGuest) -> None:
    for _ in range(2):
        linux_guest.rebind(guest)
        linux_guest.ping(guest, HOST)
        assert running.show()["enabled_pairs"] == 1


def test_worker_is_replaced_under_the_control_queue(running: Running, guest: UmlGuest) -> None:
    os.kill(running.workers()[0], signal.SIGKILL)
    guest.check("ip link set eth0 address 52:54:00:79:00:77")
    assert running.show()["mac"] == "52:54:00:79:00:77"
    linux_guest.ping(guest, HOST)
    assert running.metric("mpnet_worker_restarts_total", reason="killed", worker="0") == 1


def test_guest_comes_back(running: Running, guest: UmlGuest) -> None:
    """Killed, and started again on the same socket: nothing of the first one is left, its address included."""
    guest.stop()
    guest.start()
    guest.wait_ready()
    assert read(guest, "address") == MAC
    linux_guest.ping(guest, HOST)
