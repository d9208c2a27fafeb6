"""Worker processes that come, go, hang and die under traffic."""

import itertools
import json
import os
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from mpnet.guest.driver import Driver, Setup
from mpnet.guest.linux import guest as linux
from mpnet.guest.linux.qemu import Machine, VhostUserNic
from tests.real import linux_guest, netns
from tests.real.exact import Exchange
from tests.real.flows import Flows, expect_answers
from tests.real.running import PATIENCE, Running, wait_until

HOST = "10.80.0.1"
GUEST = "10.80.0.2"
PAIRS = 4
MOST_WORKER_BYTES = 15 << 20
BURST = 64
"""What a killed worker may have had in hand, in frames."""


@contextmanager
def served(options: str) -> Iterator[tuple[Running, Driver]]:
    """A device of four queue pairs in a namespace of its own, and the embedded driver on all of them."""
    with (
        netns.network_namespace(),
        netns.tap("tap0"),
        tempfile.TemporaryDirectory() as folder,
        Running(Path(folder), "tap0", PAIRS, options=options.split()) as device,
        Driver.connect(device.socket, Setup(queue_pairs=PAIRS)) as driver,
    ):
        yield device, driver


def expect_exact(exchange: Exchange) -> None:
    """Every frame came, once, in order."""
    exchange.expect_progress("all was done")
    exchange.finish()
    assert {(lane.missing, lane.repeated, lane.ordered) for lane in exchange.lanes} == {(0, 0, True)}
    assert all(exchange.served), "each queue pair has received"


def tx_packets(device: Running) -> list[int]:
    """Frames that each queue pair took from the driver."""
    return [ring["packets"] for ring in device.show()["rings"] if ring["direction"] == "tx"]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_serves_all_queue_pairs(workers: int) -> None:
    with served(f"--workers {workers}") as (device, driver), Exchange(driver, "tap0") as exchange:
        pairs = [worker["pairs"] for worker in device.call("worker.list")]
        assert pairs == [list(range(slot, PAIRS, workers)) for slot in range(workers)]
        assert len(set(device.workers())) == workers
        expect_exact(exchange)
        # A frame may be here before the burst that it came in is counted.
        sent = [lane.sent for lane in exchange.to_host]
        wait_until(lambda: tx_packets(device) == sent, "each queue pair has counted what was sent on it")


def test_scaling_loses_no_frame() -> None:
    with served("--workers 4") as (device, driver), Exchange(driver, "tap0") as exchange:
        for workers in (1, 3, 2, 4, 1, 4):
            device.call("worker.scale", device="net0", count=workers)
            exchange.expect_progress(f"worker scale net0 {workers}")
            assert len(device.workers()) == workers
            told = [int(device.metric("mpnet_queue_worker", queue=str(pair))) for pair in range(PAIRS)]
            assert told == [pair % workers for pair in range(PAIRS)]
        expect_exact(exchange)
        drops = {key: value for key, value in device.metrics().items() if "drops" in key[0] and value}
        assert drops == {}


def test_killed_workers_lose_only_what_they_had_in_hand() -> None:
    with served("--workers 2") as (device, driver), Exchange(driver, "tap0") as exchange:
        kills = 4
        for kill in range(kills):
            os.kill(device.workers()[kill % 2], signal.SIGKILL)
            exchange.expect_progress("SIGKILL")
        exchange.finish()
        # A frame that was written to the TAP but not yet returned to the driver is written again.
        assert [lane.missing for lane in exchange.to_host] == [0] * PAIRS
        assert sum(lane.repeated for lane in exchange.to_host) <= kills * BURST
        # A frame that was read from the TAP but not yet given to the driver is gone with the worker.
        assert sum(lane.missing for lane in exchange.to_guest) <= kills * BURST
        assert sum(lane.repeated for lane in exchange.to_guest) == 0
        assert device.metric("mpnet_worker_restarts_total", reason="killed") == kills


def test_workers_go_on_without_control() -> None:
    with served("--workers 2") as (device, driver), Exchange(driver, "tap0") as exchange:
        device.kill()
        exchange.expect_progress("SIGKILL of control")
        expect_exact(exchange)
        orphans = device.workers()
        device.start()
        assert not any(map(psutil.pid_exists, orphans))


def test_workers_stay_on_their_processors() -> None:
    allowed = sorted(os.sched_getaffinity(0))[:2]
    with served(f"--workers 3 --cpus {','.join(map(str, allowed))}") as (device, driver):
        killed = device.workers()[1]
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: device.workers()[1] != killed, "the worker is replaced")
        device.call("worker.scale", device="net0", count=4)
        expected = [{allowed[slot % len(allowed)]} for slot in range(4)]
        assert [os.sched_getaffinity(pid) for pid in device.workers()] == expected
        with Exchange(driver, "tap0") as exchange:
            expect_exact(exchange)


def test_one_more_worker_costs_little_memory() -> None:
    """Private memory, after traffic on all queues: guest memory, code and libraries are shared."""
    with served("--workers 4") as (device, driver):
        with Exchange(driver, "tap0") as exchange:
            expect_exact(exchange)
        private = [psutil.Process(pid).memory_full_info().uss for pid in device.workers()]
    print("private MiB of each worker:", [round(size / (1 << 20), 1) for size in private])  # noqa: T201
    assert max(private) < MOST_WORKER_BYTES


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with (
        netns.network_namespace(),
        netns.tap("tap0", f"{HOST}/24"),
        tempfile.TemporaryDirectory() as folder,
        Running(Path(folder), "tap0", PAIRS) as device,
    ):
        yield device


@pytest.fixture(scope="module")
def guest(running: Running) -> Iterator[linux.LinuxGuest]:
    nic = VhostUserNic(socket=str(running.socket), queue_pairs=PAIRS)
    machine = Machine(accel="tcg", machine="pc", smp=PAIRS, memory_mib=512)
    with linux.LinuxGuest(nic, machine, linux.Setup(addresses=[f"{GUEST}/24"])) as booted:
        yield booted


def tcp_counters(guest: linux.LinuxGuest) -> dict[str, int]:
    """What the guest's TCP has counted (RFC 4022)."""
    names, values = guest.check("grep ^Tcp: /proc/net/snmp").splitlines()
    return {name: int(value) for name, value in zip(names.split()[1:], values.split()[1:], strict=True)}


def test_iperf3_ends_well_while_workers_scale(running: Running, guest: linux.LinuxGuest) -> None:
    pids, before = set(running.workers()), tcp_counters(guest)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(linux_guest.iperf3, guest, HOST, "256M", reverse=back) for back in (False, True)]
        for workers in itertools.cycle((1, 3, 2, 4)):
            running.call("worker.scale", device="net0", count=workers)
            pids |= set(running.workers())
            if workers == PAIRS and all(run.done() for run in runs):
                break
    # iperf3 ends once all is sent, whatever still lies in buffers.
    assert min(run.result().received for run in runs) > 192 << 20
    assert len(pids) > 2 * PAIRS, "workers came and went under traffic"
    # The host's retransmissions tell nothing: the TAP moves its flows between queues, which reorders them.
    sent, again = (tcp_counters(guest)[name] - before[name] for name in ("OutSegs", "RetransSegs"))
    assert again < sent // 1000, "the guest sent next to nothing twice"
    expect_answers(GUEST)


def restarts(running: Running, reason: str) -> float:
    return running.metric("mpnet_worker_restarts_total", reason=reason)


def endings(running: Running) -> list[dict[str, object]]:
    """What the log says about workers that ended unasked."""
    events = map(json.loads, running.log.splitlines())
    return [event for event in events if event["event"] == "worker ended"]


@pytest.mark.parametrize(
    ("number", "reason", "detail"),
    [
        (signal.SIGKILL, "killed", "SIGKILL"),
        (signal.SIGSEGV, "killed", "SIGSEGV"),
        (signal.SIGSTOP, "hung", "no heartbeat for"),
    ],
)
def test_connections_outlive_a_worker(
    running: Running, guest: linux.LinuxGuest, number: signal.Signals, reason: str, detail: str
) -> None:
    before, told = restarts(running, reason), len(endings(running))
    with Flows(guest, HOST, 4) as flows:
        victim = running.workers()[1]
        os.kill(victim, number)
        wait_until(lambda: restarts(running, reason) == before + 1, "the end is counted")
        flows.expect_progress(number.name)
        expect_answers(GUEST)
    ending = endings(running)[told]
    assert (ending["worker"], ending["pid"], ending["reason"]) == (1, victim, reason)
    assert detail in str(ending["detail"])
    assert len(endings(running)) == told + 1


def test_a_worker_that_dies_again_and_again_is_replaced_each_time(
    running: Running, guest: linux.LinuxGuest
) -> None:
    before, deaths = restarts(running, "killed"), 4
    with Flows(guest, HOST, 2) as flows:
        for death in range(deaths):
            worker = running.workers()[2]
            os.kill(worker, signal.SIGKILL)
            wait_until(lambda: restarts(running, "killed") == before + death + 1, "it is counted")  # noqa: B023
            wait_until(lambda: running.workers()[2] != worker, "it is replaced")  # noqa: B023
        flows.expect_progress("the last death")
    expect_answers(GUEST)


def test_workers_die_while_queues_come_and_go(running: Running, guest: linux.LinuxGuest) -> None:
    script = " && ".join(f"ethtool -L eth0 combined {pairs}" for pairs in (1, 3, 2, 4) * 3)
    with Flows(guest, HOST, 2) as flows:
        setting = guest.spawn(script)
        before = restarts(running, "killed")
        for slot in range(PAIRS):
            os.kill(running.workers()[slot], signal.SIGKILL)
            wait_until(lambda: restarts(running, "killed") == before + slot + 1, "it is counted")  # noqa: B023
        assert setting.wait(PATIENCE).returncode == 0
        flows.expect_progress("deaths and ethtool -L")
    # QEMU answers its guest before the device has heard of it.
    wait_until(lambda: running.show()["enabled_pairs"] == PAIRS, "all queue pairs are enabled again")
    expect_answers(GUEST)
