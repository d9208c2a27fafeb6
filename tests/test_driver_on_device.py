"""The embedded driver on a running mpnet: bytes in at one side and out at the other, whatever the layout.

In two processes, compiled and interpreted, over a real TAP.
"""

import random
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpnet.guest.chain import Layout
from mpnet.guest.driver import Driver, Setup
from mpnet.virtio.features import Feature, mask
from tests.real.netns import network_namespace, tap
from tests.real.running import Running, wait_until

ETHERTYPE = 0x88B5  # for local experiments: nothing else on the TAP sends it
MTU = 9000
ROUNDS = 40
SETUP = Setup()
FEATURES = {
    "all": SETUP.features,
    "no event index": SETUP.features & ~mask(Feature.RING_EVENT_IDX),
    "no mergeable buffers": SETUP.features & ~mask(Feature.MRG_RXBUF),
    "legacy": SETUP.features & ~mask(Feature.VERSION_1, Feature.MRG_RXBUF, Feature.RING_INDIRECT_DESC),
}


@pytest.fixture(scope="module", params=["compiled", "interpreted"])
def device(request: pytest.FixtureRequest) -> Iterator[Running]:
    environment = {"MPNET_JIT": "0"} if request.param == "interpreted" else {}
    with (
        network_namespace(),
        tap("tap0", mtu=MTU),
        tempfile.TemporaryDirectory(prefix="mpnet-") as folder,
        Running(Path(folder), "tap0", 2, environment=environment) as running,
    ):
        yield running


@pytest.fixture
def host(device: Running) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE)) as sock:
        sock.bind(("tap0", ETHERTYPE))
        sock.settimeout(60)
        yield sock


def frame(generator: random.Random, size: int) -> bytes:
    return bytes(6) + b"\x02\0\0\0\0\x01" + ETHERTYPE.to_bytes(2, "big") + generator.randbytes(size - 14)


def random_layout(generator: random.Random, entries: int, *, indirect: bool) -> Layout:
    """Cuts anywhere, one-byte pieces among them, with a tail that is direct, indirect or mixed."""
    most = entries // 2
    cuts = tuple(generator.choice([1, 1, 2, 5, 12, 13, 60, 300]) for _ in range(generator.randrange(most)))
    direct = generator.choice([None, 0, 1, 3]) if indirect else None
    return Layout(cuts, direct)


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES.keys())
@pytest.mark.parametrize("backing", ["memfd", "shm"])
def test_frames_arrive_as_they_were_sent(
    device: Running, host: socket.socket, features: int, backing: str
) -> None:
    generator = random.Random(1)
    indirect = bool(features & mask(Feature.RING_INDIRECT_DESC))
    # Regions with buffers that cross from one to the next.
    setup = Setup(queue_pairs=2, features=features, memory=(1 << 20, 32 << 20, 32 << 20), backing=backing)
    with Driver.connect(device.socket, setup) as driver:
        for number in range(ROUNDS):
            pair = number % 2
            sent = frame(generator, generator.choice([60, 61, 1514, MTU + 14]))
            driver.send(pair, [sent], random_layout(generator, setup.ring_size, indirect=indirect))
            assert host.recv(1 << 16) == sent
    wait_until(lambda: device.show()["session"]["front_end"] is None, "the driver's leave is noticed")


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES.keys())
@pytest.mark.parametrize("room", [128, 600, 2048, 9100])
def test_frames_are_received_as_they_were_sent(
    device: Running, host: socket.socket, features: int, room: int
) -> None:
    generator = random.Random(2)
    mergeable = bool(features & mask(Feature.MRG_RXBUF))
    indirect = bool(features & mask(Feature.RING_INDIRECT_DESC))
    setup = Setup(queue_pairs=1, features=features, ring_size=1024)
    with Driver.connect(device.socket, setup) as driver:
        size = room if mergeable else 9100
        # The header in pieces of its own, small ones behind, and the rest; indirect where that is negotiated.
        layout = Layout((5, 1, 6, 1, 1, 40), 2 if indirect else None)
        assert driver.post(0, size, 140, layout) == 140
        for _ in range(ROUNDS):
            sent = frame(generator, generator.choice([60, 61, 1514, MTU + 14]))
            host.send(sent)
            assert sent in _received(driver)
    wait_until(lambda: device.show()["session"]["front_end"] is None, "the driver's leave is noticed")


def _received(driver: Driver) -> list[bytes]:
    """The next frame of ours; the kernel's own neighbour discovery may come in between."""
    while True:
        frames = [got.data for got in driver.receive(0)]
        assert frames, "nothing came"
        ours = [data for data in frames if data[12:14] == ETHERTYPE.to_bytes(2, "big")]
        if ours:
            return ours
