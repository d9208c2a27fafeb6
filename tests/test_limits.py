"""The ends of what a device can be: 64 queue pairs, rings of 2 and of 32768 entries."""

import resource
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mpnet.guest.chain import PLAIN, Layout
from mpnet.guest.driver import Driver, Setup
from mpnet.segment.layout import MAX_QUEUE_PAIRS
from tests.real.netns import network_namespace, tap
from tests.real.running import Running
from tests.test_driver_on_device import ETHERTYPE

FRAME = bytes(6) + b"\x02\0\0\0\0\x01" + ETHERTYPE.to_bytes(2, "big") + bytes(range(86))


def test_three_devices_of_64_queue_pairs_are_served_from_the_usual_limit_on_open_files() -> None:
    """The soft one of a shell, 1024: not even two would fit. First here, as ``device`` has the same name."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    setup = Setup(queue_pairs=MAX_QUEUE_PAIRS, ring_size=4, memory=(64 << 20,))
    try:
        with tempfile.TemporaryDirectory(prefix="mpnet-") as folder, ExitStack() as stack:
            words = [
                f"id=more{number},backend=null,socket={folder}/{number},queue-pairs=64,workers=1"
                for number in range(3)
            ]
            options = [word for each in words for word in ("--device", each)]
            running = stack.enter_context(
                Running(
                    Path(folder),
                    None,
                    words="backend=null",
                    options=options,
                    environment={"MPNET_JIT": "0"},
                    wrapper=("prlimit", "--nofile=1024:"),
                )
            )
            drivers = [stack.enter_context(Driver.connect(f"{folder}/{number}", setup)) for number in range(3)]
            for number, driver in enumerate(drivers):
                driver.send(MAX_QUEUE_PAIRS - 1, [FRAME])
                shown = running.call("device.show", device=f"more{number}")
                assert (shown["session"]["state"], shown["rings"][127]["packets"]) == ("running", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture(scope="module")
def device() -> Iterator[Running]:
    with (
        network_namespace(),
        tap("tap0"),
        tempfile.TemporaryDirectory(prefix="mpnet-") as folder,
        Running(Path(folder), "tap0", MAX_QUEUE_PAIRS, words="workers=2") as running,
    ):
        yield running


@pytest.fixture
def host(device: Running) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE)) as sock:
        sock.bind(("tap0", ETHERTYPE))
        sock.settimeout(60)
        yield sock


def test_64_queue_pairs_carry_frames_on_two_workers(device: Running, host: socket.socket) -> None:
    setup = Setup(queue_pairs=MAX_QUEUE_PAIRS, ring_size=16, memory=(512 << 20,))
    with Driver.connect(device.socket, setup) as driver:
        assert driver.config.max_virtqueue_pairs == MAX_QUEUE_PAIRS
        for pair in range(MAX_QUEUE_PAIRS):
            driver.send(pair, [FRAME])
            assert host.recv(1 << 16) == FRAME
        rings = [ring for ring in device.show()["rings"] if ring["direction"] == "tx"]
        assert [ring["packets"] for ring in rings] == [1] * MAX_QUEUE_PAIRS
        assert device.show()["enabled_pairs"] == MAX_QUEUE_PAIRS


@pytest.mark.parametrize("entries", [2, 4, 32768])
def test_ring_sizes(device: Running, host: socket.socket, entries: int) -> None:
    setup = Setup(queue_pairs=1, ring_size=entries, memory=(128 << 20,))
    with Driver.connect(device.socket, setup) as driver:
        posted = driver.post(0, 2048, min(entries, 1024))
        assert posted == min(entries, 1024)
        for layout in (PLAIN, Layout((12,))):
            for _ in range(20):
                driver.send(0, [FRAME], layout)
                assert host.recv(1 << 16) == FRAME
                host.send(FRAME)
                got: list[bytes] = []
                while FRAME not in got:
                    got = [frame.data for frame in driver.receive(0)]
                    assert got
