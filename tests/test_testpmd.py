"""DPDK's testpmd drives the device over virtio-user with 2 queue pairs: sends, receives, and counts the same."""

import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from tests.real import counters, netns, testpmd
from tests.real.counters import Count, Queues
from tests.real.running import Running, wait_until
from tests.real.testpmd import Testpmd

HOST = "10.80.0.1"
DRIVER = "10.80.0.2"
TAP = "tap0"
PAIRS = 2
FLOWS = 64
DATAGRAMS = 4096
BATCH = 512
"""Datagrams sent at a time: a queue of the TAP holds 1000 and drops more."""
LEAST_SENT = 20_000
PLAIN = "in_order=0"


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with (
        netns.network_namespace(),
        netns.tap(TAP, f"{HOST}/24"),
        tempfile.TemporaryDirectory() as folder,
        Running(Path(folder), TAP, PAIRS) as device,
    ):
        with IPRoute() as ip:
            # testpmd answers no ARP.
            index = ip.link_lookup(ifname=TAP)[0]
            ip.neigh("add", dst=DRIVER, lladdr=testpmd.MAC, ifindex=index, state="permanent")
        yield device


@pytest.fixture(
    scope="module",
    params=[
        "mrg_rxbuf=1,queue_size=256,packed_vq=0",
        "mrg_rxbuf=0,queue_size=256,packed_vq=0",
        "mrg_rxbuf=1,queue_size=1024,packed_vq=0",
        "mrg_rxbuf=0,queue_size=64,packed_vq=0",
        "mrg_rxbuf=1,queue_size=256,packed_vq=1",
        "mrg_rxbuf=0,queue_size=1024,packed_vq=1",
    ],
)
def driver(running: Running, request: pytest.FixtureRequest) -> Iterator[tuple[Testpmd, Queues]]:
    """testpmd on the device, and what the device had counted before."""
    before = counters.of_device(running, PAIRS)
    with Testpmd(running.socket, PAIRS, f"{request.param},{PLAIN}") as attached:
        yield attached, before


def of_testpmd(driver: Testpmd) -> Queues:
    said = driver.statistics()
    return {
        (direction, queue): Count(*(said[f"{direction}_q{queue}_good_{unit}"] for unit in Count._fields))
        for direction in ("rx", "tx")
        for queue in range(PAIRS)
    }


def counted(running: Running, before: Queues, direction: str) -> list[Count]:
    """What the device has counted since, by queue pair."""
    now = counters.of_device(running, PAIRS)
    return [
        Count(*(new - old for new, old in zip(now[direction, queue], before[direction, queue], strict=True)))
        for queue in range(PAIRS)
    ]


def expect_agreement(running: Running, driver: Testpmd, before: Queues, direction: str) -> None:
    """Device and driver come to count the same, on each queue."""

    def both() -> tuple[list[Count], list[Count]]:
        said = of_testpmd(driver)
        return counted(running, before, direction), [said[direction, queue] for queue in range(PAIRS)]

    wait_until(lambda: len({tuple(counts) for counts in both()}) == 1, f"equal {direction} counters: {both()}")


def expect_received(running: Running, before: Queues, packets: int) -> None:
    """At least so many frames come to be in the driver's rings."""
    wait_until(
        lambda: sum(count.packets for count in counted(running, before, "rx")) >= packets,
        f"{packets} datagrams are in the rings",
    )


def rings(running: Running, field: str) -> set[object]:
    """What all rx and tx rings say of a field."""
    return {ring[field] for ring in running.show()["rings"] if ring["direction"] != "control"}


def test_attaches_as_asked(running: Running, driver: tuple[Testpmd, Queues]) -> None:
    wait_until(lambda: rings(running, "state") == {"running"}, "every ring runs")
    shown = running.show()
    assert shown["enabled_pairs"] == PAIRS
    words = re.search(r"Devargs: (.*)", driver[0].ask("show port info 0"))
    assert words is not None
    asked = dict(word.split("=") for word in words[1].split(","))
    assert ("MRG_RXBUF" in shown["features"]) == (asked["mrg_rxbuf"] == "1")
    assert ("RING_PACKED" in shown["features"]) == (asked["packed_vq"] == "1")
    assert rings(running, "size") == {int(asked["queue_size"])}


@pytest.mark.parametrize("segments", ["64", "64,1,512,923"])
def test_sends(running: Running, driver: tuple[Testpmd, Queues], segments: str) -> None:
    testing, before = driver
    then = counters.of_device(running, PAIRS)
    testing.ask(f"set txpkts {segments}")
    testing.forward("txonly")
    wait_until(
        lambda: all(count.packets > LEAST_SENT for count in counted(running, then, "tx")),
        "each queue has sent enough",
    )
    testing.ask("stop")
    expect_agreement(running, testing, before, "tx")
    length = sum(map(int, segments.split(",")))
    for count in counted(running, then, "tx"):
        assert count.bytes == length * count.packets


def test_receives(running: Running, driver: tuple[Testpmd, Queues]) -> None:
    testing, before = driver
    then = counters.of_device(running, PAIRS)
    testing.forward("rxonly")
    with ExitStack() as stack:
        flows = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(FLOWS)]
        for sent in range(BATCH, DATAGRAMS + 1, BATCH):
            for number in range(sent - BATCH, sent):
                flows[number % FLOWS].sendto(bytes(number % 1400 + 1), (DRIVER, 9))
            expect_received(running, then, sent)
    expect_agreement(running, testing, before, "rx")
    testing.ask("stop")
    for count in counted(running, then, "rx"):
        assert count.packets > 0


def test_nothing_was_dropped_nor_broken(running: Running, driver: tuple[Testpmd, Queues]) -> None:
    assert counters.dropped(running) == 0
    assert rings(running, "fault") == {"none"}
    said = driver[0].statistics()
    assert (said["rx_errors"], said["rx_mbuf_allocation_errors"]) == (0, 0)
