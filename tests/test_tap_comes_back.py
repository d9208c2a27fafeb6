"""A TAP that is deleted under a guest and made again: frames flow again, whatever the guest did meanwhile."""

import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpnet.guest.driver import Driver, Setup
from mpnet.guest.session import Session
from tests.real.netns import network_namespace
from tests.real.running import Running, wait_until
from tests.test_driver_on_device import ETHERTYPE
from tests.test_limits import FRAME


@pytest.fixture(scope="module")
def device() -> Iterator[Running]:
    with network_namespace(), tempfile.TemporaryDirectory(prefix="mpnet-") as folder:
        _make()
        with Running(Path(folder), "tap0", 2, environment={"MPNET_JIT": "0"}) as running:
            yield running


def _delete() -> None:
    subprocess.run(["ip", "link", "del", "tap0"], check=True)


def _make() -> None:
    subprocess.run(["ip", "tuntap", "add", "tap0", "mode", "tap", "multi_queue", "vnet_hdr"], check=True)
    subprocess.run(["ip", "link", "set", "tap0", "up"], check=True)


def _expect_frames(driver: Driver) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE)) as host:
        host.bind(("tap0", ETHERTYPE))
        host.settimeout(60)
        driver.send(0, [FRAME])
        assert host.recv(1 << 16) == FRAME
        host.send(FRAME)
        got: list[bytes] = []
        while FRAME not in got:
            got = [frame.data for frame in driver.receive(0)]
            assert got, "the guest gets no frame"


@pytest.mark.parametrize("meanwhile", ["nothing", "restart", "reconnect"])
def test_frames_flow_again(device: Running, meanwhile: str) -> None:
    with Driver.connect(device.socket, Setup(queue_pairs=1, ring_size=64)) as driver:
        driver.post(0, 2048, 32)
        _expect_frames(driver)
        _delete()
        wait_until(lambda: not device.show()["tap"]["present"], "it is noticed")
        driver.send(0, [FRAME])
        if meanwhile == "restart":
            driver.stop()
            driver.start()
        elif meanwhile == "reconnect":
            driver.session.close()
            driver.reconnect(Session.connect(device.socket, 60.0))
        _make()
        wait_until(lambda: device.show()["tap"]["up"], "it is taken up")
        _expect_frames(driver)
    restarts = [worker["restarts"] for worker in device.show()["workers"]]
    assert not any(count for each in restarts for count in each.values())
