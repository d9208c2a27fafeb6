"""Captures: what workers copy, byte for byte, what happens when there is no room, and the file."""

import mmap
import os
import random
import re
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scapy.utils import RawPcapNgReader

from mpnet.control import leftovers
from mpnet.control.log import get_log
from mpnet.errors import MpnetError
from mpnet.guest.chain import Layout
from mpnet.guest.driver import DEFAULT_FEATURES, Driver, Setup
from mpnet.guest.frame import Frame, NetHeader
from mpnet.guest.stream import Stream
from mpnet.guest.traffic import Plan, Traffic
from mpnet.guest.virtqueue import add_one, notify
from mpnet.pcapng import Direction
from mpnet.rpc.worker import SetCapture
from mpnet.segment import capture as captures
from mpnet.segment.capture import DATA, HEAD, MIN_LANE_BYTES, PREFIX, Capture, Lane, lane_offset
from mpnet.segment.layout import Fault
from mpnet.virtio.features import Feature, mask
from tests.real.asked import real
from tests.real.running import MPNET, Running, running_on_tap, wait_until
from tests.worker_harness import HEADER_BYTES, Harness

ETHERTYPE = 0x88B5  # for local experiments
WHOLE = 65536


def frame(size: int, seed: int) -> bytes:
    head = bytes(6) + b"\x02\0\0\0\0\x01" + ETHERTYPE.to_bytes(2, "big")
    return head + random.Random(seed).randbytes(size - len(head))


@contextmanager
def capturing(harness: Harness, *rings: int, snaplen: int = WHOLE) -> Iterator[Capture]:
    """Have the harness's worker fill a capture, which is given."""
    device = harness.segment.name
    made, fd = Capture.create(device, 1, MIN_LANE_BYTES, snaplen)
    harness.ask(SetCapture(list(rings), made.lane_bytes, made.snaplen), [fd], ours=True)
    try:
        yield Capture.attach(device)
    finally:
        captures.unlink(device)


@pytest.mark.parametrize("layout", [Layout(), Layout((5, 30)), Layout((1,) * 40), Layout((12,), 0)])
def test_both_directions_are_captured_as_the_guest_has_them(layout: Layout) -> None:
    with Harness(entries=4096) as harness, capturing(harness, 0, 1) as capture:
        harness.start()
        harness.receiver.post(200, 100, layout)
        sent = [frame(size, size) for size in (60, 61, 1514, 9014)]
        harness.sender.send([Frame(data, NetHeader(csum_start=7)) for data in sent], layout)
        for data in sent:
            harness.tap.send(NetHeader().pack(HEADER_BYTES) + data[::-1])
        harness.receiver.receive(len(sent))
        frames = list(capture.lanes[0].take())
        tx = [each for each in frames if each.ring == 1]
        rx = [each for each in frames if each.ring == 0]
        assert [(each.data, each.length) for each in tx] == [(data, len(data)) for data in sent]
        assert {each.header for each in tx} == {NetHeader(csum_start=7).pack(HEADER_BYTES)}
        assert [each.data for each in rx] == [data[::-1] for data in sent]
        assert [each.time_ns for each in frames] == sorted(each.time_ns for each in frames)
        assert (capture.lanes[0].kept, capture.lanes[0].dropped) == (8, 0)


def test_long_frames_are_cut_and_their_length_is_told() -> None:
    with Harness() as harness, capturing(harness, 1, snaplen=100) as capture:
        harness.start()
        harness.sender.send([Frame(frame(60, 1)), Frame(frame(1514, 2))])
        assert [(len(each.data), each.length) for each in capture.lanes[0].take()] == [(60, 60), (100, 1514)]


def test_what_finds_no_room_is_counted_and_holds_nobody_up() -> None:
    with Harness() as harness, capturing(harness, 1) as capture:
        harness.start()
        (lane,) = capture.lanes
        data = [frame(1514, number) for number in range(600)]
        for number in range(0, 600, 20):
            harness.sender.send([Frame(each) for each in data[number : number + 20]])
            for each in data[number : number + 20]:
                assert harness.tap.recv(WHOLE)[HEADER_BYTES:] == each
        assert lane.dropped > 0
        assert lane.kept + lane.dropped == 600
        kept = lane.kept
        assert [each.data for each in lane.take()] == data[:kept]
        harness.sender.send([Frame(data[0])])
        assert [each.data for each in lane.take()] == [data[0]]


def test_a_reader_that_keeps_up_misses_nothing_however_often_the_lane_begins_anew() -> None:
    sizes = random.Random(5)
    with Harness() as harness, capturing(harness, 1) as capture:
        harness.start()
        (lane,) = capture.lanes
        total = 0
        while total < 3 * MIN_LANE_BYTES:
            sent = [frame(sizes.randrange(60, 9000), total + number) for number in range(8)]
            harness.sender.send([Frame(each) for each in sent])
            for _ in sent:
                harness.tap.recv(WHOLE)
            assert [each.data for each in lane.take()] == sent
            total += sum(map(len, sent))
        assert lane.dropped == 0


def test_nothing_is_copied_of_rings_that_are_not_captured_nor_afterwards() -> None:
    with Harness() as harness, capturing(harness, 0) as capture:
        harness.start()
        harness.receiver.post(2000, 10)
        harness.sender.send([Frame(frame(60, 1))])
        assert capture.lanes[0].kept == 0
        assert [int(ring.capture) != 0 for ring in harness.worker.ctx.rings] == [True, False, False]
        harness.ask(SetCapture())
        assert not any(ring.capture for ring in harness.worker.ctx.rings)
        harness.tap.send(NetHeader().pack(HEADER_BYTES) + frame(60, 2))
        assert len(harness.receiver.receive()) == 1
        assert capture.lanes[0].kept == 0


@pytest.mark.parametrize(("lane_bytes", "snaplen"), [(4096, 64), (MIN_LANE_BYTES + 1, 64), (MIN_LANE_BYTES, 0)])
def test_a_capture_that_cannot_work_is_refused(lane_bytes: int, snaplen: int) -> None:
    with pytest.raises(MpnetError, match="expected"):
        Capture.create("test-capture", 1, lane_bytes, snaplen)


def test_lanes_have_their_memory_before_a_worker_writes_to_them() -> None:
    """Shared memory that is full would end the worker by SIGBUS, and the next one too."""
    made, fd = Capture.create("test-capture", 2, 1 << 44, 64)
    try:
        with pytest.raises(MpnetError, match=r"no 17592186044416 bytes .*: No space left on device"):
            made.reserve(fd, [1])
        made, other = Capture.create("test-capture", 2, MIN_LANE_BYTES, 64)
        made.reserve(other, [1])
        assert MIN_LANE_BYTES <= 512 * os.fstat(other).st_blocks < 2 * MIN_LANE_BYTES, "of that pair alone"
        os.close(other)
    finally:
        os.close(fd)
        captures.unlink("test-capture")


@pytest.fixture(scope="module")
def device() -> Iterator[Running]:
    with running_on_tap(queue_pairs=2) as running:
        yield running


@contextmanager
def recording(device: Running, path: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """``mpnet capture`` at work; ended as by Ctrl-C."""
    command = [MPNET, "capture", "net0", "-w", path, "--control-socket", device.control, *words]
    with said(path).open("wb") as stderr, subprocess.Popen(command, stderr=stderr) as process:
        wait_until(lambda: path.exists() and path.stat().st_size, "the capture runs")
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(120)


def said(path: Path) -> Path:
    """What the command that wrote ``path`` told people."""
    return path.with_suffix(".err")


@real("tshark")
def tshark(path: Path, *fields: str) -> list[list[str]]:
    """What tshark reads, a list a packet; it refuses a file that is malformed."""
    words = [word for field in fields for word in ("-e", field)]
    command = ["tshark", "-r", path, "-T", "fields", "-E", "separator=|", *words]
    read = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "cut short" not in read.stderr
    return [line.split("|") for line in read.stdout.splitlines()]


def contents(path: Path) -> list[bytes]:
    """The packets' bytes."""
    with RawPcapNgReader(str(path)) as reader:
        return [data for data, _ in reader]


def statistics(path: Path) -> dict[int, dict[int, int]]:
    """The 64-bit options of each interface's statistics block: by interface, then by option."""
    data, found = path.read_bytes(), {}
    while data:
        kind, length = struct.unpack_from("<II", data)
        if kind == 5:
            (interface,) = struct.unpack_from("<I", data, 8)
            codes = range(20, length - 8, 12)
            options = [struct.unpack_from("<HHQ", data, at) for at in codes]
            found[interface] = {code: value for code, size, value in options if size == 8}
        data = data[length:]
    return found


IF_RECEIVED, IF_DROPPED = 4, 5


def exchange(device: Running, driver: Driver) -> tuple[list[bytes], list[bytes]]:
    """Frames both ways, every one of them come; what was sent by the guest, and what to it."""
    to_host = [frame(size, size) for size in (60, 61, 1514)]
    to_guest = [frame(size, size) for size in (62, 63, 1513)]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE)) as host:
        host.bind(("tap0", ETHERTYPE))
        host.settimeout(60)
        for pair in (0, 1):
            driver.send(pair, to_host)
            assert [host.recv(WHOLE) for _ in to_host] == to_host
        before = sum(ring["packets"] for ring in device.show()["rings"] if ring["direction"] == "rx")
        for data in to_guest:
            host.send(data)

        def received() -> bool:
            rings = device.show()["rings"]
            return sum(ring["packets"] for ring in rings if ring["direction"] == "rx") == before + 3

        wait_until(received, "the guest has them")
    return to_host, to_guest


def test_the_file_has_every_packet_of_both_directions(device: Running, tmp_path: Path) -> None:
    path = tmp_path / "out.pcapng"
    with Driver.connect(device.socket, Setup(queue_pairs=2)) as driver:
        for pair in (0, 1):
            driver.post(pair, 2000, 100)
        with recording(device, path) as process:
            to_host, to_guest = exchange(device, driver)
        assert said(path).read_text() == "9 packets written, 0 dropped for want of room\n"
        assert process.returncode == 0
        assert sorted(contents(path)) == sorted(to_host * 2 + to_guest)
        lines = tshark(path, "frame.interface_name", "frame.packet_flags_direction", "frame.len", "eth.type")
        sent = [[name, *rest] for name, direction, *rest in lines if int(direction, 0) == Direction.OUTBOUND]
        assert sent == [[f"net0.{queue}", str(len(data)), "0x88b5"] for queue in (0, 1) for data in to_host]
        assert sorted(line[2] for line in lines if int(line[1], 0) == Direction.INBOUND) == sorted(
            str(len(data)) for data in to_guest
        )
        assert [values[IF_DROPPED] for values in statistics(path).values()] == [0, 0]
        assert sum(values[IF_RECEIVED] for values in statistics(path).values()) == 9

        with recording(device, tmp_path / "one.pcapng", "--queue", "1", "--direction", "tx", "--snaplen", "60"):
            exchange(device, driver)
        lines = tshark(tmp_path / "one.pcapng", "frame.interface_name", "frame.cap_len", "frame.len")
        assert lines == [["net0.1", "60", str(len(data))] for data in to_host]
    assert not Path(f"/dev/shm/{PREFIX}net0").exists()  # noqa: S108 - where Linux shows POSIX shared memory


@real("tcpdump")
def test_packets_are_printed_as_they_come_and_a_filter_chooses(device: Running, tmp_path: Path) -> None:
    options = ("--control-socket", device.control)
    out = tmp_path / "text"
    with Driver.connect(device.socket, Setup(queue_pairs=2)) as driver:
        for pair in (0, 1):
            driver.post(pair, 2000, 100)
        chosen = tmp_path / "chosen.pcapng"
        command = [MPNET, "capture", "net0", "--print", "-c", "9", *options]
        with (
            recording(device, chosen, "greater", "1000"),
            out.open("wb") as text,
            subprocess.Popen(command, stdout=text, stderr=subprocess.PIPE) as refused,
        ):
            assert refused.stderr is not None
            assert b"captured" in refused.stderr.read(), "one at a time"
            to_host, to_guest = exchange(device, driver)
        long = sorted(data for data in [*to_host * 2, *to_guest] if len(data) >= 1000)
        assert sorted(contents(chosen)) == long
        with out.open("wb") as text, subprocess.Popen(command, stdout=text, stderr=subprocess.PIPE) as printing:
            wait_until(lambda: Path(f"/dev/shm/{PREFIX}net0").exists(), "it captures")  # noqa: S108 - as above
            exchange(device, driver)
            assert printing.wait(120) == 0
            assert printing.stderr is not None
            assert printing.stderr.read() == b"9 packets printed, 0 dropped for want of room\n"
    lines = out.read_text().splitlines()
    heads = [
        re.match(r"\d\d:\d\d:\d\d\.\d{6} net0\.([01]) ([rt]x) .*ethertype.* length (\d+)", line) for line in lines
    ]
    found = sorted((match[2], int(match[3])) for match in heads if match)
    sent = [("tx", len(data)) for data in to_host * 2] + [("rx", len(data)) for data in to_guest]
    assert found == sorted(sent)
    both = subprocess.run([*command, "-w", "x"], capture_output=True, text=True, check=False)
    assert (both.returncode, both.stdout) == (2, "")


@real("tshark")
def test_a_pipe_ends_after_the_packets_that_were_asked_for(device: Running) -> None:
    """Segmentation offload: frames are as big as the guest gave them, and say so."""
    features = DEFAULT_FEATURES | mask(Feature.HOST_TSO4)
    command = [MPNET, "capture", "net0", "-w", "-", "-c", "5", "--control-socket", device.control]
    read = ["tshark", "-r", "-", "-T", "fields", "-E", "separator=|", "-e", "frame.len", "-e", "frame.comment"]
    stream = Stream(frame_bytes=1514, segments=10, tcp=True)
    with (
        Driver.connect(device.socket, Setup(features=features)) as driver,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
        subprocess.Popen(read, stdin=process.stdout, stdout=subprocess.PIPE, text=True) as reader,
    ):
        traffic = Traffic(driver.pairs[0], stream, Plan(receive=False))
        wait_until(lambda: traffic.run(5.0, 100, 0) and process.poll() is not None, "the capture is complete")
        out, _ = reader.communicate(timeout=120)
    comment = "segmentation offload: TCP over IPv4, 1460 bytes of payload a segment"
    assert out.splitlines() == [f"{54 + 10 * 1460}|{comment}"] * 5


def test_what_a_full_disk_or_a_closed_pipe_took_is_whole(device: Running, tmp_path: Path) -> None:
    path = tmp_path / "kept.pcapng"
    capture = f"{MPNET} capture net0 --control-socket {device.control} -w"
    # In a mount namespace of its own, so that nothing is left of it.
    full = (
        f"mount -t tmpfs -o size=64k tmpfs /mnt; {capture} /mnt/out; status=$?; cp /mnt/out {path}; exit $status"
    )
    closed = f"{capture} - | head -c 70000 > {path}; exit ${{PIPESTATUS[0]}}"
    with Driver.connect(device.socket, Setup()) as driver:
        traffic = Traffic(driver.pairs[0], Stream(frame_bytes=1001), Plan(receive=False))

        def status_of(script: str) -> tuple[int, str]:
            command = ["unshare", "--mount", "bash", "-c", script]
            with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
                wait_until(lambda: traffic.run(5.0, 100, 0) and process.poll() is not None, "it has ended")
                return process.returncode, process.communicate()[1]

        status, told = status_of(full)
        packets = contents(path)
        assert len(packets) > 50
        assert [len(line) for line in tshark(path, "frame.len")] == [1] * len(packets)
        problem = f"cannot write to /mnt/out: No space left on device; it ends after {len(packets)} whole packets"
        assert (status, told.partition(": free")[0]) == (1, f"mpnet: error: {problem}")

        status, told = status_of(closed)
        assert (status, path.stat().st_size) == (0, 70000)
        assert re.fullmatch(r"\d+ packets written, \d+ dropped for want of room\n", told)


def test_memory_that_vanishes_under_a_capture_breaks_its_ring_alone(device: Running, tmp_path: Path) -> None:
    half = 32 << 20
    setup = Setup(queue_pairs=2, memory=(half, half), backing="shm")
    with Driver.connect(device.socket, setup) as driver, recording(device, tmp_path / "out"):
        workers = device.workers()
        os.ftruncate(driver.memory.fd, half)
        tx = driver.pairs[0].tx
        add_one(tx.virtqueue, driver.memory.regions[1].guest_address, 100, 0)
        notify(tx.virtqueue)
        rings = wait_for_fault(device)
        assert (rings[1]["state"], rings[1]["fault"]) == ("broken", Fault.MEMORY_LOST.name.lower())
        driver.send(1, [frame(60, 1)])
        assert device.workers() == workers


def wait_for_fault(device: Running) -> list[Any]:
    wait_until(lambda: device.show()["rings"][1]["state"] == "broken", "the ring is broken")
    rings: list[Any] = device.show()["rings"]
    return rings


def test_a_capture_ends_with_its_reader_and_goes_on_through_restarts(device: Running, tmp_path: Path) -> None:
    def capture_files() -> list[str]:
        return [path.name for path in Path("/dev/shm").glob(f"{PREFIX}*")]  # noqa: S108 - as above

    path = tmp_path / "out.pcapng"
    with Driver.connect(device.socket, Setup(queue_pairs=2)) as driver:
        with recording(device, path) as process:
            second = subprocess.run(
                [MPNET, "capture", "net0", "-w", tmp_path / "b", "--control-socket", device.control],
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert second.returncode == 1
            assert "is being captured already" in second.stderr
            killed = device.workers()[1]
            os.kill(killed, signal.SIGKILL)
            wait_until(lambda: device.workers()[1:] not in ([], [killed]), "the worker is replaced")
            driver.send(1, [frame(60, 1)])
        assert contents(path) == [frame(60, 1)]
        wait_until(lambda: capture_files() == [], "the capture is removed")
        with recording(device, tmp_path / "c") as process:
            process.kill()
            process.wait(120)
            wait_until(lambda: capture_files() == [], "the capture of a killed reader is removed")
        with recording(device, tmp_path / "d") as process:
            driver.send(0, [frame(60, 2)])
            device.kill()  # so no test of it comes after this one
            assert process.wait(120) == 0
        assert contents(tmp_path / "d") == [frame(60, 2)]
    leftovers.clear("net0", get_log())
    assert capture_files() == []


@pytest.mark.parametrize(
    ("head", "record"),
    [
        (96, (0, 1, 0, 4, 4, 0)),  # would be read for ever
        (96, (-8, 1, 0, 4, 4, 0)),
        (96, (104, 1, 0, 4, 4, 0)),  # beyond what was written
        (96, (96, 7, 0, 4, 4, 0)),  # another lane's ring
        (96, (96, 1, 0, 4, 49, 0)),  # a frame beyond its record
        (96, (96, 1, 0, 4, -1, 0)),
        (1 << 62, (96, 1, 0, 4, 4, 0)),  # more than the lane holds
        (-96, (96, 1, 0, 4, 4, 0)),
    ],
)
def test_a_lane_that_a_worker_spoilt_ends_and_is_resumed(head: int, record: tuple[int, ...]) -> None:
    memory = mmap.mmap(-1, lane_offset(1, MIN_LANE_BYTES))
    lane, at = Lane(memory, 0, MIN_LANE_BYTES), lane_offset(0, MIN_LANE_BYTES)
    struct.pack_into("=6q", memory, at + DATA, *record)
    struct.pack_into("=q", memory, at + HEAD, head)
    assert list(lane.take()) == []
    place = head % MIN_LANE_BYTES
    struct.pack_into("=6q", memory, at + DATA + place, 56, 1, 0, 4, 4, 0)
    memory[at + DATA + place + 48 : at + DATA + place + 52] = b"next"
    struct.pack_into("=q", memory, at + HEAD, head + 56)
    assert [each.data for each in lane.take()] == [b"next"]
