"""``mpnet run`` with the back-ends that have no TAP: driven by our driver and by DPDK's, while pairs move."""

import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from mpnet.guest.driver import DEFAULT_FEATURES, Driver, Setup
from mpnet.guest.stream import Stream
from mpnet.guest.traffic import Plan, Report, Traffic
from mpnet.virtio.features import Feature, mask
from tests.real import counters
from tests.real.counters import Count
from tests.real.running import PATIENCE, Running, wait_until
from tests.real.testpmd import Testpmd

PAIRS = 2
FRAMES = 40_000
PACKED = mask(Feature.RING_PACKED)
UNFINISHED = {"CSUM", "HOST_TSO4", "HOST_TSO6", "HOST_ECN"}


@contextmanager
def served(backend: str, options: tuple[str, ...] = ()) -> Iterator[Running]:
    with (
        tempfile.TemporaryDirectory(prefix="mpnet-") as folder,
        Running(Path(folder), None, PAIRS, words=f"backend={backend}", options=options) as device,
    ):
        yield device


def exchange(driver: Driver, pair: int) -> Report:
    """Send frames on a pair and wait for as many, each checked byte by byte."""
    stream = Stream(frame_bytes=1514 if pair else 64, flows=3)
    return Traffic(driver.pairs[pair], stream, Plan()).run(PATIENCE, send=FRAMES, receive=FRAMES)


@pytest.mark.parametrize("features", [DEFAULT_FEATURES, DEFAULT_FEATURES | PACKED], ids=["split", "packed"])
def test_every_frame_comes_back_once_and_in_order_while_pairs_move(features: int) -> None:
    setup = Setup(queue_pairs=PAIRS, features=features)
    with (
        served("echo") as device,
        Driver.connect(device.socket, setup) as driver,
        ThreadPoolExecutor() as threads,
    ):
        running = [threads.submit(exchange, driver, pair) for pair in range(PAIRS)]
        for workers in (1, 2, 1):
            device.call("worker.scale", device="net0", count=workers)
        reports = [each.result() for each in running]
        assert all(report.finished for report in reports)
        for report in reports:
            got = report.received
            assert (got["packets"], got["corrupt"], got["lost"], got["reordered"]) == (FRAMES, 0, 0, 0)
        for direction in ("rx", "tx"):
            # The driver may have the last frames before they are counted.
            wait_until(
                lambda way=direction: [count.packets for count in forwarded(device, way)] == [FRAMES] * PAIRS,
                f"{direction} frames are counted",
            )
        shown = device.show()
        assert (shown["tap"], shown["config"]["backend"], shown["mtu"]) == (None, "echo", 1500)
        assert not UNFINISHED & set(shown["features_offered"])


def test_null_is_told_of_and_takes_offloads() -> None:
    with served("null") as device:
        assert device.show()["features_offered"]
        assert set(device.show()["features_offered"]) >= UNFINISHED
        device.call("device.set", device="net0", name="mtu", value="9000")
        device.call("device.set", device="net0", name="link", value="down")
        assert (device.show()["mtu"], device.show()["link"]) == (9000, "down")


def forwarded(device: Running, direction: str) -> list[Count]:
    counted = counters.of_device(device, PAIRS)
    return [counted[direction, pair] for pair in range(PAIRS)]


@pytest.mark.parametrize("packed", [0, 1], ids=["split", "packed"])
@pytest.mark.parametrize(("backend", "directions"), [("null", ["tx"]), ("echo", ["tx", "rx"])])
def test_dpdk_forwards_through_it(backend: str, directions: list[str], packed: int) -> None:
    words = f"mrg_rxbuf=1,in_order=0,queue_size=256,packed_vq={packed}"
    with served(backend) as device, Testpmd(device.socket, PAIRS, words) as driver:
        if backend == "null":
            driver.forward("txonly")
        else:
            driver.ask("set fwd io")
            driver.ask("start tx_first 4")
        for direction in directions:
            wait_until(
                lambda way=direction: all(each.packets > FRAMES for each in forwarded(device, way)),
                f"{direction} frames on each queue pair",
            )
        stopped = driver.ask("stop")
        assert re.search(r"TX-packets: [1-9]", stopped)
        assert counters.dropped(device) == 0
        assert {ring["fault"] for ring in device.show()["rings"]} == {"none"}
