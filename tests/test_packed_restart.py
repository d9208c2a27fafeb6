"""A stock QEMU guest with packed rings finds its device again after mpnet was killed or stopped, and started."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpnet.guest.linux.guest import LinuxGuest, Setup
from mpnet.guest.linux.qemu import Machine, VhostUserNic
from tests.real import netns
from tests.real.flows import Flows
from tests.real.footprint import ended
from tests.real.running import Running, wait_until

HOST, GUEST = "10.79.0.1", "10.79.0.2"


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with (
        netns.network_namespace(),
        netns.tap("tap0", f"{HOST}/24"),
        tempfile.TemporaryDirectory() as folder,
        Running(Path(folder), "tap0", 1) as device,
    ):
        yield device


@pytest.fixture(scope="module")
def guest(running: Running) -> Iterator[LinuxGuest]:
    nic = VhostUserNic(socket=str(running.socket), mac="52:54:00:79:00:02", packed=True)
    machine = Machine(accel="tcg", machine="pc", memory_mib=256)
    with LinuxGuest(nic, machine, Setup(addresses=[f"{GUEST}/24"])) as booted:
        yield booted


def kill_control(running: Running) -> None:
    """Control alone: its workers go on until the next control ends them."""
    running.kill()
    running.start()


def kill_all(running: Running) -> None:
    """Every process at once, in the middle of whatever it does."""
    workers = running.workers()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)  # control replaces none of them
    running.kill()
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: all(ended(pid) for pid in workers), "the workers have ended")
    running.start()


def restart(running: Running) -> None:
    assert running.stop() == 0
    running.start()


@pytest.mark.parametrize("interruption", [kill_control, kill_all, restart])
def test_packed_rings_outlive_mpnet(running: Running, guest: LinuxGuest, interruption: object) -> None:
    assert callable(interruption)
    with Flows(guest, HOST, 2) as flows:
        flows.expect_progress("the beginning")
        for _ in range(2):
            interruption(running)
            flows.expect_progress(interruption.__name__)
    assert "RING_PACKED" in running.show()["features"]
    assert {ring["state"] for ring in running.show()["rings"] if ring["direction"] != "control"} == {"running"}
