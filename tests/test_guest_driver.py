"""The embedded driver against DPDK's back-end: testpmd swaps the addresses of each frame and returns it."""

import random
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from mpnet.guest import debian
from mpnet.guest.chain import Layout
from mpnet.guest.driver import DEFAULT_FEATURES, Driver, Setup
from mpnet.guest.memory import SEAM
from mpnet.guest.stream import Stream
from mpnet.guest.traffic import Plan, Traffic
from mpnet.virtio.features import Feature, mask
from tests.real.asked import real
from tests.real.running import PATIENCE, wait_until

QUEUE_PAIRS = 2
MODERN = mask(Feature.VERSION_1)
FEATURES = {
    "mergeable, event index, indirect": DEFAULT_FEATURES,
    "bare": MODERN,
    "mergeable": MODERN | mask(Feature.MRG_RXBUF),
    "event index": MODERN | mask(Feature.RING_EVENT_IDX),
    "indirect": MODERN | mask(Feature.RING_INDIRECT_DESC, Feature.MRG_RXBUF),
    "legacy": mask(Feature.RING_EVENT_IDX, Feature.ANY_LAYOUT),
}


@contextmanager
@real("dpdk")
def run_testpmd(folder: Path) -> Iterator[Path]:
    """Run testpmd as the device; yields its socket."""
    program = str(debian.program("dpdk-testpmd"))
    sock = folder / "vhost.sock"
    command = [program, "--no-pci", "--no-huge", "-m", "256", "--no-telemetry", "--lcores", "0@0,1@1"]
    command += [f"--file-prefix={folder.name}", "--vdev", f"net_vhost0,iface={sock},queues={QUEUE_PAIRS}", "--"]
    command += [
        "--forward-mode=macswap",
        "--auto-start",
        "--nb-cores=1",
        "--total-num-mbufs=4096",
        "--no-flush-rx",
    ]
    command += [f"--rxq={QUEUE_PAIRS}", f"--txq={QUEUE_PAIRS}"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
    try:
        wait_until(sock.exists, "testpmd listens")
        yield sock
    finally:
        process.communicate(b"\n", timeout=120)
    assert process.returncode == 0, (folder / "log").read_text()


@pytest.fixture(scope="module")
def device() -> Iterator[Path]:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mpnet-testpmd-"))
        yield stack.enter_context(run_testpmd(Path(folder)))


def random_frame(rng: random.Random, longest: int = 1514) -> bytes:
    return rng.randbytes(12) + b"\x88\xb5" + rng.randbytes(rng.randint(46, longest - 14))


def swapped(frame: bytes) -> bytes:
    return frame[6:12] + frame[:6] + frame[12:]


def random_layout(rng: random.Random, features: int, most: int) -> Layout:
    # DPDK 22.11 writes past a buffer whose header lies in more than two pieces; no layout here does that.
    header = rng.choice([(12,), (5, 7), (1, 11), (11, 1), (3, 40), (400,)])
    body = rng.choice([(), (1,) * 20, tuple(rng.randint(1, 300) for _ in range(most))])
    indirect = features & mask(Feature.RING_INDIRECT_DESC) and rng.random() < 0.5
    return Layout(rng.choice([(), header + body]), direct=0 if indirect else None)


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES.keys())
def test_every_frame_comes_back_whole_in_any_layout(device: Path, features: int) -> None:
    rng = random.Random(f"{features}")
    with Driver.connect(device, Setup(queue_pairs=QUEUE_PAIRS, features=features)) as driver:
        for pair in range(QUEUE_PAIRS):
            for _ in range(16):
                driver.post(pair, count=1, layout=random_layout(rng, features, 6))
        for pair in [0, 1] * 12:
            frames = [random_frame(rng) for _ in range(rng.randint(1, 8))]
            layout = random_layout(rng, features, 12)
            driver.send(pair, frames, layout)
            back = driver.receive(pair, len(frames))
            assert [frame.data for frame in back] == [swapped(frame) for frame in frames], layout


def test_frames_merge_many_small_buffers(device: Path) -> None:
    rng = random.Random(1)
    with Driver.connect(device, Setup()) as driver:
        assert driver.post(0, size=100, count=64) == 64
        for _ in range(20):
            frame = random_frame(rng)
            driver.send(0, [frame])
            (back,) = driver.receive(0)
            assert back.data == swapped(frame)
            assert back.header.num_buffers == -(-(len(frame) + 12) // 100)


@pytest.mark.parametrize("backing", ["memfd", "shm"])
def test_buffers_cross_regions_in_the_middle(device: Path, backing: str) -> None:
    rng = random.Random(2)
    setup = Setup(memory=(32 << 20, 16 << 20), backing=backing)  # type: ignore[arg-type]
    with Driver.connect(device, setup) as driver:
        seam = driver.memory.regions[1].guest_address
        driver.post(0, size=2000, count=1, layout=Layout(at=seam - SEAM // 2 - 700))
        frame = random_frame(rng, 1000)
        for back_off in (1, 5, 12, 40, len(frame) - 1):
            driver.send(0, [frame], Layout(at=seam - back_off))
            assert [f.data for f in driver.receive(0)] == [swapped(frame)]


def test_stopped_rings_go_on(device: Path) -> None:
    rng = random.Random(3)
    with Driver.connect(device, Setup(ring_size=64)) as driver:
        driver.post(0)
        for _ in range(3):
            frames = [random_frame(rng) for _ in range(50)]
            driver.send(0, frames)
            assert [f.data for f in driver.receive(0, 50)] == [swapped(f) for f in frames]
            driver.stop()
            assert driver.pairs[0].tx.ring.base == driver.pairs[0].tx.virtqueue.state[0].avail_index
            driver.start()


@pytest.mark.parametrize("features", [DEFAULT_FEATURES, MODERN], ids=["event index", "flags"])
@pytest.mark.parametrize(
    "stream",
    [Stream(flows=5), Stream(flows=3, source="2001:db8::1", target="2001:db8::2", frame_bytes=1514)],
    ids=["ipv4", "ipv6"],
)
def test_traffic_comes_back_numbered_and_whole(device: Path, features: int, stream: Stream) -> None:
    count = 200  # what the device can hold: it drops what the rx queue has no room for
    with Driver.connect(device, Setup(queue_pairs=QUEUE_PAIRS, features=features)) as driver:
        for pair in driver.pairs:
            traffic = Traffic(pair, stream, Plan())
            for _ in range(5):
                report = traffic.run(PATIENCE, send=count, receive=count)
                assert report.finished
                assert report.sent == {
                    "frames": count,
                    "packets": count,
                    "bytes": count * stream.frame_bytes,
                    "returned": count,
                }
                assert report.received["packets"] == count
                assert report.received["bytes"] == count * stream.frame_bytes
                assert not report.received["corrupt"] + report.received["lost"] + report.received["reordered"]
            assert sum(traffic.sink.received) == 5 * count
            assert max(traffic.sink.received) - min(traffic.sink.received) <= 1


def test_pairs_run_in_threads_until_stopped(device: Path) -> None:
    with Driver.connect(device, Setup(queue_pairs=QUEUE_PAIRS)) as driver:
        runs = [Traffic(pair, Stream(), Plan()) for pair in driver.pairs]
        with ThreadPoolExecutor() as pool:
            reports = [pool.submit(traffic.run, PATIENCE) for traffic in runs]
            for traffic, report in zip(runs, reports, strict=True):
                while traffic.sink.state[0].packets < 2000 and not report.done():
                    pass
                traffic.stop()
            for report in reports:
                assert not report.result().finished
                assert report.result().received["packets"] >= 2000
                assert report.result().received["corrupt"] == 0
