"""A front-end on the device's socket, with fake workers behind: what it says is what workers and TAP are told."""

import asyncio
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mpnet.config.properties import PROPERTIES
from mpnet.control.describe import describe_device
from mpnet.control.launcher import Launcher
from mpnet.errors import MpnetError, ProtocolError
from mpnet.rpc.worker import ControlCommand
from mpnet.tap import ioctls, kernel, tap
from mpnet.tap.tap import Tap
from mpnet.vhost_user.effects import MemoryRegion
from mpnet.vhost_user.messages import HEADER, BackendRequest, Request
from mpnet.virtio.config_space import LinkStatus, NetConfig
from mpnet.virtio.features import Feature, mask
from tests.control_harness import Guest, Script, eventually, fake_workers, served
from tests.real.netns import network_namespace

FEATURES = mask(Feature.VERSION_1, Feature.MRG_RXBUF, Feature.MQ, Feature.CSUM)


@pytest.fixture
def scripted() -> Iterator[tuple[Script, Launcher]]:
    with network_namespace(), fake_workers() as both:
        yield both


def test_a_device_is_described_whatever_its_workers_wrote(
    tmp_path: Path, scripted: tuple[Script, Launcher]
) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted, queue_pairs=2) as device:
            device.segment.rings.state = device.segment.rings.fault = 99
            device.segment.workers.engine = device.segment.workers.code = -1
            told = describe_device(device)
            assert {(ring["state"], ring["fault"]) for ring in told["rings"]} == {("unknown 99", "unknown 99")}
            assert {(each["engine"], each["code"]) for each in told["workers"]} == {("unknown -1", "unknown -1")}

    asyncio.run(run())


def test_a_front_end_attaches_starts_stops_and_leaves(tmp_path: Path, scripted: tuple[Script, Launcher]) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted, queue_pairs=2) as device:
            guest = Guest(device.config.socket)
            await guest.attach(FEATURES)
            assert guest.front_end.queue_pairs == 2
            assert device.segment.header.features == guest.front_end.features
            assert [len(told["regions"]) for told in scripted[0].told("SetMemory", 1)] == [0, 1]
            assert device.first_ring_ns == 0
            await guest.start(0, 1, base=9)
            assert 0 < (came := device.first_ring_ns) < time.monotonic_ns()
            assert device.tap.attached == {0}
            assert scripted[0].told("SetRing")[0]["base"] == 9
            assert describe_device(device)["session"]["state"] == "running"
            await guest.start(2, 3)
            assert device.first_ring_ns == came
            assert device.tap.attached == {0, 1}
            assert device.segment.header.enabled_pairs == 2
            messages = device.segment.header.messages.sum()
            await guest.call(guest.front_end.set_vring_enable(2, enable=False))
            assert device.tap.attached == {0}
            await eventually(lambda: device.segment.header.messages.sum() == messages + 1, "it is counted")
            assert await guest.call(guest.front_end.get_vring_base(0)) == 9
            assert device.tap.attached == frozenset()
            guest.close()
            await eventually(lambda: device.peer is None, "the device is free")
            await eventually(lambda: device.segment.header.features == 0, "all that was negotiated is forgotten")
            assert len(scripted[0].told("SetMemory", 0)) == 3
            assert {told["index"] for told in scripted[0].told("StopRing")} == {0, 1, 2, 3}

    asyncio.run(run())


def test_the_next_front_end_is_offered_the_same(tmp_path: Path, scripted: tuple[Script, Launcher]) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted, queue_pairs=2) as device:
            offers = []
            for _ in range(3):
                guest = Guest(device.config.socket)
                offers.append(await guest.call(guest.front_end.call(Request.GET_FEATURES)))
                await guest.attach(FEATURES)
                await guest.start(0, 1)
                guest.close()
            assert len(set(offers)) == 1
            await eventually(lambda: device.peer is None, "the last one has left")
            assert device.segment.header.connections == 3

    asyncio.run(run())


@pytest.mark.parametrize("gso", [True, False])
@pytest.mark.parametrize("gro", [True, False])
def test_what_tap_and_workers_do_for_offloads_is_as_configured(
    tmp_path: Path, scripted: tuple[Script, Launcher], monkeypatch: pytest.MonkeyPatch, gso: bool, gro: bool
) -> None:
    told: list[int] = []
    set_offload = ioctls.set_offload

    def note(fd: int, flags: int) -> None:
        told.append(flags)
        set_offload(fd, flags)

    async def run() -> None:
        async with served(tmp_path, *scripted, gso=gso, gro=gro) as device:
            everything = device.tap.offloads()
            monkeypatch.setattr(ioctls, "set_offload", note)
            guest = Guest(device.config.socket)
            await guest.attach(FEATURES | mask(Feature.GUEST_CSUM, Feature.GUEST_TSO4))
            every = sum(flag for wanted, flag in tap._OFFLOADS if everything & wanted == wanted)
            assert told[-1] == (every if gso else ioctls.TUN_F_CSUM | ioctls.TUN_F_TSO4)
            await guest.start(0, 1)
            rings = scripted[0].told("SetRing")
            assert {(ring["segment"], ring["coalesce"]) for ring in rings} == {(gso, gro)}
            guest.close()
            await eventually(lambda: told[-1] == 0, "the next driver begins with none")

    asyncio.run(run())


def test_a_second_front_end_is_turned_away_and_the_first_stays(
    tmp_path: Path, scripted: tuple[Script, Launcher]
) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted) as device:
            first = Guest(device.config.socket)
            await first.attach(FEATURES)
            second = Guest(device.config.socket)
            assert await asyncio.to_thread(second.sock.recv, 1) == b""
            second.close()
            await first.start(0, 1)
            assert device.tap.attached == {0}
            first.close()

    asyncio.run(run())


def test_the_next_front_end_waits_while_the_device_is_freed_of_the_last(
    tmp_path: Path, scripted: tuple[Script, Launcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpnet.control.endpoint._HANDOVER_SECONDS", 0.0)
    scripted[0].add("0 StopRing pause")

    async def run() -> None:
        async with served(tmp_path, *scripted) as device:
            first = Guest(device.config.socket)
            await first.attach(FEATURES)
            await first.start(0, 1)
            first.close()
            await eventually(lambda: scripted[0].told("StopRing"), "the first one's rings are being stopped")
            second = Guest(device.config.socket)
            await second.attach(FEATURES)
            await second.start(0, 1)
            assert device.tap.attached == {0}
            second.close()

    asyncio.run(run())


def test_workers_that_die_are_replaced_behind_the_front_ends_back(
    tmp_path: Path, scripted: tuple[Script, Launcher]
) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted) as device:
            guest = Guest(device.config.socket)
            await guest.attach(FEATURES)
            await guest.start(0, 1)
            pid = device.supervisor.workers[0].pid
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda: len(scripted[0].told("SetRing")) >= 6, "the replacement has the rings")
            assert scripted[0].told("SetRing")[-1]["fds"] == 2
            assert device.tap.attached == {0}
            assert await guest.call(guest.front_end.get_vring_base(1)) == 0
            guest.close()

    asyncio.run(run())


def test_memory_that_cannot_be_mapped_is_refused_to_the_front_end(
    tmp_path: Path, scripted: tuple[Script, Launcher]
) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted) as device:
            scripted[0].add("0 SetMemory refuse")
            guest = Guest(device.config.socket)
            with pytest.raises(ProtocolError, match="refused ADD_MEM_REG"):
                await guest.attach(FEATURES)
            assert device.backend.log[-1].outcome == "the script says no"
            guest.close()

    asyncio.run(run())


def test_a_request_that_fails_halfway_is_undone(tmp_path: Path, scripted: tuple[Script, Launcher]) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted) as device:
            guest = Guest(device.config.socket)
            await guest.attach(FEATURES)
            await guest.start(0, 1)
            region = MemoryRegion(0, 1 << 20, 0x10000000, 0, guest.memory)
            await guest.call(guest.front_end.rem_mem_reg(region))
            assert (device.supervisor.desired.rings, device.tap.attached) == ({}, frozenset())
            scripted[0].add("0 SetRing pass", "0 SetRing refuse")
            with pytest.raises(ProtocolError, match="refused ADD_MEM_REG"):
                await guest.call(guest.front_end.add_mem_reg(region))
            desired = device.supervisor.desired
            assert (desired.rings, desired.regions, device.tap.attached) == ({}, (), frozenset())
            assert scripted[0].told("StopRing")[-1]["index"] == 0
            assert scripted[0].told("SetMemory")[-1]["regions"] == []
            await guest.call(guest.front_end.add_mem_reg(region))
            assert (sorted(desired.rings), device.tap.attached) == ([0, 1], {0})
            guest.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "data",
    [
        HEADER.pack(1, 0, 0),
        HEADER.pack(1, 1, 1 << 30),
        HEADER.pack(Request.SET_FEATURES, 1, 3) + b"abc",
        HEADER.pack(Request.SET_MEM_TABLE, 1, 0),
        HEADER.pack(Request.SET_VRING_KICK, 1, 8) + bytes(8),
        b"abc",
    ],
)
def test_nonsense_ends_the_session_and_not_the_device(
    tmp_path: Path, scripted: tuple[Script, Launcher], data: bytes
) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted) as device:
            guest = Guest(device.config.socket)
            guest.sock.sendall(data)
            guest.sock.shutdown(socket.SHUT_WR)
            assert await asyncio.to_thread(guest.sock.recv, 64) == b""
            guest.close()
            again = Guest(device.config.socket)
            await again.attach(FEATURES)
            await again.start(0, 1)
            again.close()

    asyncio.run(run())


def test_a_front_end_that_shares_no_memory_is_told_apart(
    tmp_path: Path, scripted: tuple[Script, Launcher], capsys: pytest.CaptureFixture[str]
) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted) as device:
            guest = Guest(device.config.socket)
            await guest.run(guest.front_end.negotiate(FEATURES))
            with pytest.raises((ConnectionError, ProtocolError)):
                await guest.start(0, 1)
            guest.close()
            await eventually(lambda: device.peer is None, "it has left")
            assert describe_device(device)["session"]["unmapped_rings"]
            again = Guest(device.config.socket)
            await again.attach(FEATURES)
            await again.start(0, 1)
            assert not describe_device(device)["session"]["unmapped_rings"]
            again.close()

    asyncio.run(run())
    said = capsys.readouterr()
    (line,) = [line for line in (said.out + said.err).splitlines() if "guest memory is not shared" in line]
    assert "share=on" in line
    assert "memory-backend=mem" in line


@pytest.mark.parametrize("release", ["7.1.0", "7.2.0"])
def test_a_kernel_that_mangles_what_is_coalesced_is_warned_of(
    tmp_path: Path,
    scripted: tuple[Script, Launcher],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    release: str,
) -> None:
    monkeypatch.setattr(kernel.platform, "release", lambda: release)

    async def run() -> None:
        async with served(tmp_path, *scripted):
            pass

    asyncio.run(run())
    said = capsys.readouterr()
    assert ("gro=off" in said.out + said.err) == (release == "7.1.0")


def test_a_driver_whose_control_queue_is_here_chooses_its_pairs(
    tmp_path: Path, scripted: tuple[Script, Launcher]
) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted, queue_pairs=2) as device:
            scripted[0].add("0 SetMemory command:ffff")  # comes before the control queue: answered with an error
            guest = Guest(device.config.socket)
            await guest.attach(FEATURES | mask(Feature.CTRL_VQ))
            await guest.start(0, 1, 2, 3)
            assert device.tap.attached == {0, 1}
            scripted[0].add("0 SetRing command:04000200")
            await guest.start(4)
            await eventually(lambda: len(scripted[0].told("CompleteCommand")) == 2, "both commands are answered")
            assert [told["ack"] for told in scripted[0].told("CompleteCommand")] == [1, 0]
            assert (device.settings.pairs, device.tap.attached) == (2, {0, 1})
            scripted[0].add("0 SetRing command:04000100")
            await guest.call(guest.front_end.set_vring_enable(4, enable=False))
            await guest.call(guest.front_end.set_vring_enable(4, enable=True))
            await eventually(lambda: device.tap.attached == {0}, "the second pair is detached")
            guest.close()
            await eventually(lambda: device.segment.header.features == 0, "the device is free")
            assert device.settings.pairs == 1

    asyncio.run(run())


def test_the_control_queue_of_a_driver_without_mq_is_ring_2(
    tmp_path: Path, scripted: tuple[Script, Launcher]
) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted, queue_pairs=2) as device:
            guest = Guest(device.config.socket)
            await guest.attach(mask(Feature.VERSION_1, Feature.CTRL_VQ))
            await guest.start(0, 1, 2)
            assert device.tap.attached == {0}
            assert {told["index"] for told in scripted[0].told("SetRing")} == {0, 1, 4}
            assert await guest.call(guest.front_end.get_vring_base(2)) == 0
            assert scripted[0].told("StopRing")[-1]["index"] == 4
            guest.close()

    asyncio.run(run())


def test_settings_change_what_the_driver_reads_and_tell_it_so(
    tmp_path: Path, scripted: tuple[Script, Launcher]
) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted, queue_pairs=2) as device:
            guest = Guest(device.config.socket)
            await guest.attach(FEATURES)
            ours, theirs = socket.socketpair()
            await guest.call(guest.front_end.set_backend_req_fd(theirs.fileno()))
            for name, value in (("mtu", "9000"), ("mac", "52:54:00:00:00:01"), ("link", "down"), ("combined", 1)):
                await device.set(name, value)
                assert HEADER.unpack(ours.recv(HEADER.size))[0] == BackendRequest.CONFIG_CHANGE_MSG
            config = NetConfig.unpack(await guest.call(guest.front_end.get_config(0, 24)))
            assert config.mac == bytes.fromhex("525400000001")
            assert (config.mtu, config.status, config.max_virtqueue_pairs) == (9000, LinkStatus(0), 2)
            assert device.tap.mtu == 9000
            guest.close()
            await eventually(lambda: device.peer is None, "the device is free")
            again = Guest(device.config.socket)
            await again.attach(FEATURES)
            assert again.front_end.queue_pairs == 1
            again.close()
            ours.close()
            theirs.close()

    asyncio.run(run())


def test_a_tap_that_is_deleted_is_a_link_that_is_down_until_it_is_made_again(
    tmp_path: Path, scripted: tuple[Script, Launcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest that reboots meanwhile, or a front-end that comes anew, is served as ever."""
    monkeypatch.setattr("mpnet.control.device.TAP_SECONDS", 0.01)

    async def run() -> None:
        async with served(tmp_path, *scripted, queue_pairs=2) as device:
            guest = Guest(device.config.socket)
            await guest.attach(FEATURES)
            ours, theirs = socket.socketpair()
            await guest.call(guest.front_end.set_backend_req_fd(theirs.fileno()))
            await guest.start(0, 1)
            subprocess.run(["ip", "link", "del", "tap0"], check=True)
            assert await asyncio.to_thread(ours.recv, HEADER.size)
            assert NetConfig.unpack(await guest.call(guest.front_end.get_config(0, 24))).status == LinkStatus(0)
            shown = describe_device(device)
            assert (shown["link"], shown["tap"]["present"], shown["tap"]["up"]) == ("down", False, False)
            assert await guest.call(guest.front_end.get_vring_base(0)) == 0
            await guest.call(guest.front_end.set_u64(Request.SET_FEATURES, FEATURES))
            await guest.start(0, 2)
            guest.close()
            await eventually(lambda: device.peer is None, "the device is free")
            again = Guest(device.config.socket)
            await again.attach(FEATURES)
            await again.start(0, 1)
            subprocess.run(["ip", "tuntap", "add", "tap0", "mode", "tap", "multi_queue", "vnet_hdr"], check=True)
            told = ["DetachPair", "AttachPair", "SetRing", "SetRing"]
            await eventually(
                lambda: [each["type"] for each in scripted[0].told(slot=0)][-4:] == told, "it is taken up"
            )
            assert describe_device(device)["link"] == "up"
            assert device.tap.attached == {0}
            again.close()
            ours.close()
            theirs.close()

    asyncio.run(run())


def test_a_front_end_that_was_refused_something_left_for_that(
    tmp_path: Path, scripted: tuple[Script, Launcher], capsys: pytest.CaptureFixture[str]
) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted, queue_pairs=2) as device:
            guest = Guest(device.config.socket)
            await guest.run(guest.front_end.negotiate(0))
            with pytest.raises(ProtocolError, match="refused SET_FEATURES"):
                await guest.call(guest.front_end.set_u64(Request.SET_FEATURES, 1 << 40))
            guest.close()
            await eventually(lambda: device.peer is None, "the device is free")
            other = Guest(device.config.socket)
            await other.run(other.front_end.negotiate(0))
            other.close()
            await eventually(lambda: device.peer is None, "the device is free")

    asyncio.run(run())
    refused, left = (line for line in capsys.readouterr().out.splitlines() if "disconnected" in line)
    assert "it left after its SET_FEATURES was refused: features acked that were not offered" in refused
    assert "queue pairs are the most" not in refused
    assert "reason='it left'" in left


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("combined", "3", "combined is 3, expected 1 to 2"),
        ("combined", "two", "expected a number from 1 to 2"),
        ("mtu", 67, "mtu is 67"),
        ("mac", "01:00:00:00:00:00", "group address"),
        ("link", "sideways", "expected up or down"),
        ("speed", 1, f"no setting 'speed', expected one of {', '.join(PROPERTIES)}$"),
        ("poll-us", 10_001, "poll-us is 10001, expected 0 to 10000"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused(
    tmp_path: Path, scripted: tuple[Script, Launcher], name: str, value: object, problem: str
) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted, queue_pairs=2, workers=1) as device:
            with pytest.raises(MpnetError, match=problem):
                await device.set(name, value)

    asyncio.run(run())


def test_a_device_connects_to_a_front_end_that_listens_and_again(
    tmp_path: Path, scripted: tuple[Script, Launcher]
) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted, client=True) as device:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(device.config.socket)
            listener.listen()
            for _ in range(2):
                sock, _ = await asyncio.to_thread(listener.accept)
                sock.sendall(HEADER.pack(Request.GET_FEATURES, 1, 0))
                assert len(await asyncio.to_thread(sock.recv, 64)) == HEADER.size + 8
                sock.close()
            listener.close()

    asyncio.run(run())


def test_queues_are_attached_beside_the_event_loop(
    tmp_path: Path, scripted: tuple[Script, Launcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    for name in ("attach", "detach", "set_features"):
        real = getattr(Tap, name)

        def noted(self: Tap, *arguments: int, name: str = name, real: Callable[..., None] = real) -> None:
            assert threading.current_thread() is not threading.main_thread()
            seen.append(name)
            real(self, *arguments)

        monkeypatch.setattr(Tap, name, noted)

    async def run() -> None:
        async with served(tmp_path, *scripted, queue_pairs=2) as device:
            seen.clear()
            before = device.budget.debt
            guest = Guest(device.config.socket)
            await guest.attach(FEATURES)
            await guest.start(0, 1, 2, 3)
            assert device.tap.attached == {0, 1}
            guest.close()
            await eventually(lambda: not device.tap.attached, "all are detached")
            assert device.budget.debt >= before

    asyncio.run(run())
    assert set(seen) == {"attach", "detach", "set_features"}


def test_commands_of_a_worker_without_end_are_taken_one_at_a_time(
    tmp_path: Path, scripted: tuple[Script, Launcher]
) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted, queue_pairs=2) as device:
            for number in range(1000):
                device._worker_reported(ControlCommand(bytes([255, number % 256])))
            await eventually(lambda: scripted[0].told("CompleteCommand"), "one is answered")
            for _ in range(100):
                await asyncio.sleep(0)
            assert len(scripted[0].told("CompleteCommand")) == 1
            device.budget.spend(1e6)
            device._worker_reported(ControlCommand(b"\1\0"))
            for _ in range(100):
                await asyncio.sleep(0)
            assert device._command is None
            assert len(scripted[0].told("CompleteCommand")) == 1

    asyncio.run(run())


def test_a_broken_ring_asks_for_a_reset_until_there_is_one(
    tmp_path: Path, scripted: tuple[Script, Launcher]
) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted) as device:
            guest = Guest(device.config.socket)
            await guest.attach(FEATURES)
            scripted[0].add("0 SetRing break")
            status = guest.front_end.call(Request.GET_STATUS)
            await guest.start(0, 1)
            await eventually(lambda: device.backend._state.needs_reset, "the driver is to reset the device")
            assert await guest.call(status) & 0x40
            await guest.call(guest.front_end.call(Request.RESET_DEVICE))
            assert not await guest.call(status) & 0x40
            guest.close()

    asyncio.run(run())
