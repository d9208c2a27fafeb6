"""Where a Linux guest's memory lies: in a memfd, in a file, added while it runs, of two guests, not shared."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from mpnet.guest.linux import qemu
from mpnet.guest.linux.guest import LinuxGuest, Setup
from mpnet.guest.linux.qemu import Machine, VhostUserNic
from tests.real import linux_guest as traffic
from tests.real import netns
from tests.real.mapped import guest_memory
from tests.real.release import OWN_AND_NEWEST, taken
from tests.real.running import Running, wait_until

HOSTS = {"net0": "10.81.0.1", "net1": "10.81.1.1"}
MIB = 1 << 20
BOOT_MIB = 192
ADDED_MIB = 512
FILE_MIB = 224
"""More than the guest has at boot: the rest of such a file lies in what is added."""
NAMES = {"memfd": "/memfd:memory-backend-memfd", "file": "/dev/shm/qemu_back_mem"}  # noqa: S108 - as Linux says


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """One control process with two devices, net0 on tap0 and net1 on tap1."""
    with (
        netns.network_namespace(),
        netns.tap("tap0", f"{HOSTS['net0']}/24"),
        netns.tap("tap1", f"{HOSTS['net1']}/24"),
        tempfile.TemporaryDirectory() as folder,
        Running(
            Path(folder), "tap0", options=("--device", f"id=net1,tap=tap1,socket={folder}/net1.sock")
        ) as device,
    ):
        yield device


def linux(running: Running, device: str = "net0", backend: Literal["memfd", "file"] = "memfd") -> LinuxGuest:
    nic = VhostUserNic(socket=str(running.socket.with_name(f"{device}.sock")))
    machine = Machine(
        accel="tcg", machine="pc", memory_mib=BOOT_MIB, backend=backend, slots=1, max_memory_mib=2048
    )
    address = HOSTS[device].removesuffix("1") + "2"
    return LinuxGuest(nic, machine, Setup(addresses=[f"{address}/24"]))


def add_memory(guest: LinuxGuest, running: Running) -> int:
    """Add memory and wait until guest and device have it; the inode of its file."""
    [worker] = running.workers()
    total = "sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo"
    before = int(guest.check(total))
    known = set(guest_memory(worker))
    guest.add_memory(ADDED_MIB)
    enough = before + ADDED_MIB * 1024 * 9 // 10
    guest.check(f"until [ $({total}) -gt {enough} ]; do usleep 50000; done")
    wait_until(lambda: len(guest_memory(worker)) > len(known), "the worker has mapped the added memory")
    [added] = set(guest_memory(worker)) - known
    return added


# With kernel 7.2 the added memory is not what its packets lie in.
@pytest.mark.parametrize("backend", ["memfd", "file"])
def test_packets_lie_in_memory_at_boot_and_added(running: Running, backend: Literal["memfd", "file"]) -> None:
    with linux(running, backend=backend) as guest:
        [worker] = running.workers()
        [mapped] = guest_memory(worker).values()
        assert mapped.name.startswith(NAMES[backend])
        traffic.ping(guest, HOSTS["net0"])
        traffic.send_file(guest, HOSTS["net0"], os.urandom(8 * MIB))
        traffic.receive_file(guest, HOSTS["net0"], 8 * MIB)

        added = add_memory(guest, running)
        before = guest_memory(worker)[added].resident
        # The guest takes new rx buffers out of the added memory, as it lies in the zone Linux prefers.
        traffic.send_file(guest, HOSTS["net0"], os.urandom(32 * MIB))
        assert guest_memory(worker)[added].resident >= before + MIB
        guest.check(f"mkdir /ram && mount -t tmpfs -o size={FILE_MIB + 1}m tmpfs /ram")
        # Random and different throughout, but for less work than that many random bytes are.
        parts = f"for part in $(seq {FILE_MIB}); do echo $part; cat /tmp/random; done"
        guest.check(f"head -c {MIB} /dev/urandom >/tmp/random && {parts} >/ram/file", 240)
        traffic.receive_in_place(guest, HOSTS["net0"], "/ram/file")
        assert guest_memory(worker)[added].resident >= (FILE_MIB - BOOT_MIB) * MIB
    assert {ring["faults"] for ring in running.show()["rings"]} == {0}


def test_one_control_process_serves_two_guests(running: Running) -> None:
    with linux(running, "net0") as one, linux(running, "net1") as other:
        for guest, host in ((one, HOSTS["net0"]), (other, HOSTS["net1"])):
            traffic.ping(guest, host)
            traffic.send_file(guest, host, os.urandom(8 * MIB))
            traffic.receive_file(guest, host, 8 * MIB)
        one.stop()
        wait_until(lambda: running.show()["session"]["state"] == "listening", "the first guest's session is over")
        before = running.metric("mpnet_queue_tx_packets_total", device="net0")
        traffic.receive_file(other, HOSTS["net1"], 8 * MIB)
        assert running.metric("mpnet_queue_tx_packets_total", device="net0") == before
        assert running.call("device.show", device="net1")["session"]["state"] == "running"


def all_unshared(session: dict[str, int]) -> bool:
    """With QEMU 7.2 it arrives and is private, with 11.1 it does not arrive."""
    return session["memory_regions_unshared"] == session["memory_regions"] > 0 or bool(session["unmapped_rings"])


@pytest.mark.parametrize("release", OWN_AND_NEWEST)
def test_memory_that_is_not_shared_is_named(
    running: Running, monkeypatch: pytest.MonkeyPatch, release: str
) -> None:
    shared = qemu.memory_object
    known = len(running.log)
    monkeypatch.setattr(
        qemu, "memory_object", lambda *words: [word.replace("share=on", "share=off") for word in shared(*words)]
    )

    def named() -> list[str]:
        return [line for line in running.log[known:].splitlines() if "guest memory is not shared" in line]

    with taken(release), linux(running) as guest:
        wait_until(
            lambda: all_unshared(running.show()["session"]), "the guest's memory is known not to be shared"
        )
        [line] = named()
        assert "share=on" in line
        assert guest.run(f"ping -c 1 -W 1 {HOSTS['net0']}").returncode != 0
    monkeypatch.setattr(qemu, "memory_arguments", lambda _machine: ["-machine", "pc", "-m", "512M"])
    with taken(release), linux(running):  # none of its memory arrives
        wait_until(lambda: running.show()["session"]["unmapped_rings"], "a ring lies nowhere")
        assert len(named()) >= 2  # QEMU comes back, and is told again
    monkeypatch.undo()
    with taken(release), linux(running) as guest:
        traffic.ping(guest, HOSTS["net0"])
        assert not running.show()["session"]["unmapped_rings"]
        assert running.show()["session"]["memory_regions_unshared"] == 0
