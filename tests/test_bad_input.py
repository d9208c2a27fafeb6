"""What a person, a front-end or a guest gets wrong, seen from outside a running mpnet.

Each has a clear error or a defined fault, and the other queues and the other device go on.
"""

import contextlib
import os
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpnet.guest import debian
from mpnet.guest.driver import Driver, Setup
from mpnet.guest.virtqueue import add_one, notify
from mpnet.segment.layout import Fault
from mpnet.segment.segment import Segment
from tests.real.asked import real
from tests.real.netns import network_namespace, tap
from tests.real.running import MPNET, Running, wait_until

FRAME = bytes(6) + b"\x02\x00\x00\x00\x00\x01" + b"\x88\xb5" + bytes(46)  # a local experimental EtherType
HALF = 32 << 20


@pytest.fixture
def folder() -> Iterator[Path]:
    # pytest's own temporary folders have names too long for a Unix socket.
    with tempfile.TemporaryDirectory(prefix="mpnet-") as name:
        yield Path(name)


@pytest.fixture(scope="module", autouse=True)
def _namespace() -> Iterator[None]:
    with network_namespace():
        yield


@pytest.fixture
def device(folder: Path) -> Iterator[Running]:
    with tap("tap0"), Running(folder, "tap0", queue_pairs=2, words="workers=1") as running:
        yield running


def run(*words: str) -> str:
    """Run mpnet, which must fail with one line; that line."""
    result = subprocess.run([MPNET, *words], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 1, result
    assert result.stdout == ""
    return result.stderr


def serve(folder: Path, words: str) -> str:
    """Run ``mpnet run`` with a device that cannot be served; its error."""
    return run("run", "--control-socket", str(folder / "c"), "--device", f"socket={folder}/s,id=net0,{words}")


def test_tap_missing_names_the_command_and_the_option(folder: Path) -> None:
    error = serve(folder, "tap=nosuch")
    assert "nosuch" in error
    assert "ip tuntap add dev nosuch mode tap multi_queue vnet_hdr" in error
    assert "create=on" in error


@pytest.mark.parametrize(("flags", "missing"), [("vnet_hdr", "multi_queue"), ("multi_queue", "vnet_hdr")])
def test_tap_without_a_flag_names_it(folder: Path, flags: str, missing: str) -> None:
    subprocess.run(["ip", "tuntap", "add", "dev", "plain", "mode", "tap", flags], check=True)
    try:
        error = serve(folder, "tap=plain,queue-pairs=2")
    finally:
        subprocess.run(["ip", "link", "del", "plain"], check=True)
    assert missing in error
    assert "ip tuntap add dev plain" in error


def test_tap_in_use_names_who_has_it(folder: Path, device: Running) -> None:
    # A TAP of a single queue is busy with its first user; one of several when all 256 are taken.
    error = run("run", "--control-socket", str(folder / "c"), "--device", f"id=net0,tap=tap0,socket={folder}/s")
    assert f"process {device.process.pid}" in error
    subprocess.run(["ip", "tuntap", "add", "dev", "single", "mode", "tap", "vnet_hdr"], check=True)
    words = f"tap=single,socket={folder}"
    holder = subprocess.Popen(
        [MPNET, "run", "--control-socket", str(folder / "d"), "--device", f"id=first,{words}/first"],
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until((folder / "first").exists, "the first device serves")
        error = run("run", "--control-socket", str(folder / "c"), "--device", f"id=second,{words}/second")
    finally:
        holder.terminate()
        holder.wait(120)
        subprocess.run(["ip", "link", "del", "single"], check=True)
    assert "single" in error
    assert str(holder.pid) in error


def test_too_many_queue_pairs_names_both_numbers(folder: Path) -> None:
    error = serve(folder, "tap=tap0,queue-pairs=65")
    assert "65" in error
    assert "64" in error


def test_a_bad_device_string_points_at_the_word(folder: Path) -> None:
    error = serve(folder, "tap=tap0,queue-pair=2")
    assert "queue-pair" in error
    assert "queue-pairs" in error
    assert "^" in error


def test_socket_path_too_long(folder: Path) -> None:
    error = run("run", "--device", f"id=net0,tap=tap0,socket={folder}/{'x' * 120}")
    assert "107" in error


def test_socket_in_use_and_stale(folder: Path) -> None:
    path = folder / "net0.sock"
    with socket.socket(socket.AF_UNIX) as listener, tap("tap0"):
        listener.bind(str(path))
        listener.listen()
        error = run("run", "--control-socket", str(folder / "c"), "--device", f"id=net0,tap=tap0,socket={path}")
        assert str(path) in error
    assert path.exists()  # stale now: nobody listens
    with tap("tap0"), Running(folder, "tap0") as running:
        assert running.socket == path
        Driver.connect(path, Setup()).close()


HEADER = struct.Struct("<III")
VERSION = 1
GARBAGE = {
    "nothing": b"",
    "half a header": b"\x01\x00",
    "wrong version": HEADER.pack(1, 7, 0),
    "unknown request": HEADER.pack(999, VERSION, 0),
    "no request at all": HEADER.pack(0, VERSION, 0),
    "oversized": HEADER.pack(5, VERSION, 1 << 30),
    "payload too short": HEADER.pack(2, VERSION, 4) + bytes(4),
    "cut off in the payload": HEADER.pack(2, VERSION, 8) + bytes(3),
    "memory table without fds": HEADER.pack(5, VERSION, 40) + struct.pack("<IIQQQQ", 1, 0, 0, 4096, 0, 0),
    "ring that is not there": HEADER.pack(8, VERSION, 8) + struct.pack("<II", 99, 256),
    "ring size of no power of two": HEADER.pack(8, VERSION, 8) + struct.pack("<II", 0, 48),
    "ring address outside memory": HEADER.pack(9, VERSION, 40) + struct.pack("<IIQQQQ", 0, 0, 16, 32, 64, 0),
    "features that were not offered": HEADER.pack(2, VERSION, 8) + struct.pack("<Q", 1 << 63),
    "a text": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


def test_a_front_end_that_talks_nonsense_is_left_and_the_next_one_served(device: Running) -> None:
    for name, data in GARBAGE.items():
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(60)
            sock.connect(str(device.socket))
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(4096):
                    pass
        assert device.process.poll() is None, name
        _serves(device)


def test_fds_that_nobody_asked_for_are_closed(device: Running) -> None:
    before = len(os.listdir(f"/proc/{device.process.pid}/fd"))  # noqa: PTH208 - names only
    for _ in range(6):
        with socket.socket(socket.AF_UNIX) as sock, open("/dev/null", "rb") as null:  # noqa: PTH123 - any file
            sock.connect(str(device.socket))
            socket.send_fds(sock, [HEADER.pack(1, VERSION, 0)], [null.fileno()] * 8)
            sock.settimeout(60)
            sock.recv(4096)
    _serves(device)
    wait_until(lambda: len(os.listdir(f"/proc/{device.process.pid}/fd")) <= before, "fds are closed")  # noqa: PTH208


def test_a_second_front_end_is_refused_and_the_first_one_served(device: Running) -> None:
    with Driver.connect(device.socket, Setup(queue_pairs=2)) as driver:
        with socket.socket(socket.AF_UNIX) as second:
            second.settimeout(60)
            second.connect(str(device.socket))
            assert second.recv(1) == b""
        driver.send(0, [FRAME])
    assert "front-end" in device.log


@real("qemu")
def qemu(device: Running, memory: str, queues: int) -> subprocess.Popen[bytes]:
    """A QEMU without a guest: its BIOS alone drives the card."""
    words = f"-accel tcg -display none -m 128 {memory} -chardev socket,id=c,path={device.socket}"
    words += f" -netdev vhost-user,id=n,chardev=c,queues={queues}"
    words += " -device virtio-net-pci,netdev=n,mq=on,vectors=0"
    return subprocess.Popen([debian.program("qemu-system-x86_64"), *words.split()], stderr=subprocess.DEVNULL)


SHARED = "-M q35,memory-backend=m -object memory-backend-memfd,id=m,size=128M,share=on"


def test_qemu_with_too_many_queues_is_told_the_most_and_does_not_flood_the_log(device: Running) -> None:
    front_end = qemu(device, SHARED, queues=3)
    try:
        wait_until(lambda: device.log.count("front-end disconnected") >= 4, "QEMU leaves, again and again")
    finally:
        front_end.kill()
        front_end.wait(120)
    assert "2 queue pairs are the most it can have (QEMU: queues=2)" in device.log
    _serves(device)


def test_qemu_without_shared_memory_is_told_so(device: Running) -> None:
    front_end = qemu(device, "-M q35", queues=2)
    try:
        wait_until(lambda: "share=on" in device.log, "the log names the remedy")
    finally:
        front_end.kill()
        front_end.wait(120)
    _serves(device)


def test_memory_that_shrinks_breaks_the_queue_that_needs_it_and_no_other(device: Running) -> None:
    # Both queue pairs are served by one process: SIGBUS must not end it.
    setup = Setup(queue_pairs=2, memory=(HALF, HALF), backing="shm")
    with Driver.connect(device.socket, setup) as driver:
        driver.send(1, [FRAME])
        worker = device.workers()
        os.ftruncate(driver.memory.fd, HALF)
        tx = driver.pairs[0].tx
        add_one(tx.virtqueue, driver.memory.regions[1].guest_address, 100, 0)
        notify(tx.virtqueue)
        wait_until(lambda: device.metric("mpnet_queue_faults_total", queue="0") == 1, "the fault is counted")
        for _ in range(10):
            driver.send(1, [FRAME])
        assert device.workers() == worker
        segment = Segment.attach("net0")
        assert segment.rings[1].fault == Fault.MEMORY_LOST
        assert segment.rings[3].packets == 11
    assert "memory_lost" in device.log
    _serves(device)


def test_a_broken_ring_is_told_with_its_reason_and_leaves_the_other_pair_alone(device: Running) -> None:
    with Driver.connect(device.socket, Setup(queue_pairs=2)) as driver:
        tx = driver.pairs[0].tx
        driver.memory.write(tx.guest.avail + 2, struct.pack("<H", 5000))
        assert tx.ring.kick_fd is not None
        os.eventfd_write(tx.ring.kick_fd, 1)
        wait_until(tx.broken, "the error eventfd")
        driver.send(1, [FRAME])
        rings = {ring["index"]: ring for ring in device.show()["rings"]}
        assert (rings[1]["state"], rings[1]["fault"]) == ("broken", "avail_index")
        assert rings[3]["state"] == "running"
    assert "avail_index" in device.log
    _serves(device)


def _serves(device: Running) -> None:
    with Driver.connect(device.socket, Setup(queue_pairs=2)) as driver:
        driver.send(0, [FRAME])
        driver.send(1, [FRAME])
