"""All that changes under a Linux guest on mpnet's own device, and that it goes on by itself each time."""

import itertools
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from mpnet.guest.linux.guest import LinuxGuest, Setup
from mpnet.guest.linux.qemu import Machine, VhostUserNic
from tests.real import linux_guest, netns
from tests.real.asked import LINUX_GUEST, real
from tests.real.flows import Flows, expect_answers
from tests.real.footprint import ended, expect_footprint, footprint, guest_memory
from tests.real.release import OWN_AND_NEWEST, taken
from tests.real.running import Running, wait_until

HOST = "10.78.0.1"
GUEST = "10.78.0.2"
PAIRS = 4


@pytest.fixture(scope="module", params=OWN_AND_NEWEST)
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    with (
        taken(request.param),
        netns.network_namespace(),
        netns.tap("tap0", f"{HOST}/24"),
        tempfile.TemporaryDirectory() as folder,
        Running(Path(folder), "tap0", PAIRS) as device,
    ):
        yield device


def boot(running: Running) -> LinuxGuest:
    nic = VhostUserNic(socket=str(running.socket), queue_pairs=PAIRS, mac="52:54:00:78:00:02")
    machine = Machine(accel="tcg", machine="pc", smp=PAIRS, memory_mib=512)
    return LinuxGuest(nic, machine, Setup(addresses=[f"{GUEST}/24"]))


@pytest.fixture(scope="module")
def guest(running: Running) -> Iterator[LinuxGuest]:
    with boot(running) as booted:
        yield booted


def rx_packets(running: Running) -> list[float]:
    """Frames each queue pair gave to the guest."""
    metrics = running.metrics()
    name = "mpnet_queue_rx_packets_total"
    return [metrics[name, (("device", "net0"), ("queue", str(pair)))] for pair in range(PAIRS)]


def expect_pairs(running: Running, pairs: int) -> None:
    """Exactly the first `pairs` queue pairs carry traffic, and mpnet says so."""
    expected = {pair: "running" if pair < pairs else "disabled" for pair in range(PAIRS)}

    def enabled() -> bool:
        # Ring by ring; and QEMU answers its guest before the device has heard of any.
        shown = running.show()
        states = [(ring["queue"], ring["state"]) for ring in shown["rings"] if ring["direction"] != "control"]
        return (
            shown["enabled_pairs"] == pairs
            and shown["tap"]["attached"] == list(range(pairs))
            and all(state == expected[pair] for pair, state in states)
        )

    wait_until(enabled, f"{pairs} queue pairs are enabled")
    before = rx_packets(running)
    expect_answers(GUEST)
    grown = [now - then for now, then in zip(rx_packets(running), before, strict=True)]
    assert all(grown[:pairs]), grown
    assert not any(grown[pairs:]), grown


def test_queues_come_and_go_under_traffic(running: Running, guest: LinuxGuest) -> None:
    assert linux_guest.combined(guest) == (PAIRS, PAIRS)
    expect_pairs(running, PAIRS)
    with Flows(guest, HOST, 4) as flows:
        for pairs in (1, 3, 4, 2, 4):
            linux_guest.set_combined(guest, pairs)
            flows.expect_progress(f"ethtool -L eth0 combined {pairs}")
            expect_pairs(running, pairs)


@pytest.mark.parametrize("running", [""], ids=["own"], indirect=True)  # the longest
def test_iperf3_ends_well_while_queues_come_and_go(running: Running, guest: LinuxGuest) -> None:
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(linux_guest.iperf3, guest, HOST, "256M", reverse=back) for back in (False, True)]
        for pairs in itertools.cycle((1, 3, 4, 2)):
            if all(run.done() for run in runs):
                break
            linux_guest.set_combined(guest, pairs)
    # iperf3 ends once all is sent, whatever still lies in buffers.
    assert min(run.result().received for run in runs) > 192 << 20
    linux_guest.set_combined(guest, PAIRS)


@contextmanager
def nothing_lost(running: Running) -> Iterator[None]:
    """In the block the device may come and go: counters go on, and no file or memory stays behind."""
    held, counted = footprint(running), counters(running)
    yield
    expect_footprint(running, held)
    expect_more(running, counted)


def expect_more(running: Running, counted: dict[object, float]) -> None:
    """No counter fell."""
    now = counters(running)
    assert {name for name, value in counted.items() if now[name] < value} == set()


def counters(running: Running) -> dict[object, float]:
    """Every counter of queues and workers."""
    metrics = running.metrics().items()
    return {key: value for key, value in metrics if key[0].startswith("mpnet_") and key[0].endswith("_total")}


def expect_service(running: Running, guest: LinuxGuest) -> None:
    """The guest reaches the host again by itself, and over every queue pair."""
    ping = f"ping -c 1 -W 1 {HOST}"
    wait_until(lambda: guest.run(ping).returncode == 0, "the guest is served")
    expect_pairs(running, PAIRS)


def test_driver_is_bound_anew(running: Running, guest: LinuxGuest) -> None:
    with nothing_lost(running):
        for _ in range(3):
            linux_guest.rebind(guest)
            expect_service(running, guest)


def test_vm_stops_and_goes_on(running: Running, guest: LinuxGuest) -> None:
    with nothing_lost(running), Flows(guest, HOST, 2) as flows:
        for _ in range(3):
            guest.monitor("stop")
            rings = running.show()["rings"]
            assert {ring["state"] for ring in rings} == {"stopped"}
            guest.monitor("cont")
            flows.expect_progress("stop and cont")
            expect_pairs(running, PAIRS)


def test_tap_goes_down_and_up(running: Running, guest: LinuxGuest) -> None:
    with nothing_lost(running), Flows(guest, HOST, 2) as flows, IPRoute() as ip:
        index = ip.link_lookup(ifname="tap0")[0]
        for _ in range(2):
            ip.link("set", index=index, state="down")
            assert not running.show()["tap"]["up"]
            dropped = running.metric("mpnet_queue_tx_drops_total", reason="tap_down")
            guest.run(f"ping -c 1 -W 1 {HOST}")
            wait_until(
                lambda: running.metric("mpnet_queue_tx_drops_total", reason="tap_down") > dropped,  # noqa: B023
                "what could not be delivered is counted",
            )
            ip.link("set", index=index, state="up")
            flows.expect_progress("TAP down and up")
            expect_pairs(running, PAIRS)


def test_tap_mtu_changes(running: Running, guest: LinuxGuest) -> None:
    with nothing_lost(running), IPRoute() as ip:
        index = ip.link_lookup(ifname="tap0")[0]
        for mtu in (9000, 1280, 1500):
            ip.link("set", index=index, mtu=mtu)
            guest.check(f"ip link set eth0 mtu {mtu}")
            assert running.show()["tap"]["mtu"] == mtu
            before = linux_guest.fragments(guest)
            linux_guest.ping(guest, HOST, count=4, size=mtu - 28)
            assert linux_guest.fragments(guest) == before, "requests and answers went in one piece each"


def test_guest_reboots(running: Running, guest: LinuxGuest) -> None:
    with nothing_lost(running):
        guest.reboot()
        expect_service(running, guest)


def crash(running: Running) -> None:
    """End control as a crash does: its workers live on, and the next control ends them."""
    orphans = running.workers()
    running.kill()
    assert not any(ended(pid) for pid in orphans)
    running.start()
    assert all(ended(pid) for pid in orphans)
    assert "leftovers of a crashed run removed" in running.log


def restart(running: Running) -> None:
    workers = running.workers()
    assert running.stop() == 0
    assert all(ended(pid) for pid in workers)
    running.start()


@pytest.mark.parametrize("interruption", [crash, restart])
def test_mpnet_comes_back(running: Running, guest: LinuxGuest, interruption: Callable[[Running], None]) -> None:
    before = footprint(running)
    for _ in range(2):
        interruption(running)
        expect_service(running, guest)
        expect_footprint(running, before)


def test_flows_outlive_mpnet(running: Running, guest: LinuxGuest) -> None:
    with Flows(guest, HOST, 2) as flows:
        for interruption in (crash, restart):
            interruption(running)
            flows.expect_progress(interruption.__name__)


@real(*LINUX_GUEST)
def test_guests_come_and_go(running: Running, guest: LinuxGuest) -> None:
    """The guest's QEMU is killed, and the next starts on the same socket; it is the module's last test."""
    alive, counted = footprint(running), counters(running)
    os.kill(guest.pid, signal.SIGKILL)
    workers = running.workers()
    wait_until(lambda: not any(map(guest_memory, workers)), "the guest's memory is unmapped")
    wait_until(lambda: running.show()["session"]["state"] == "listening", "the session is over")
    assert running.show()["tap"]["attached"] == []
    assert {ring["state"] for ring in running.show()["rings"]} == {"stopped"}
    with boot(running) as second:
        expect_service(running, second)
        expect_footprint(running, alive)
    expect_more(running, counted)
