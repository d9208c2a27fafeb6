"""The control process as a whole: its end by a signal, its crash, and what the next one does about that."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
import structlog

from mpnet.config.control import ControlConfig
from mpnet.config.device import DeviceConfig
from mpnet.config.layer import RunConfig
from mpnet.control import leftovers
from mpnet.control.device import Device
from mpnet.control.launcher import Launcher
from mpnet.control.log import get_log
from mpnet.control.reload import reload_when_told
from mpnet.control.server import Control
from mpnet.control.signals import handled_signals
from mpnet.errors import ConfigError, MpnetError
from mpnet.segment import process
from mpnet.segment import segment as segments
from mpnet.segment.segment import Segment
from mpnet.tap import link
from tests.control_harness import ROOT, Guest, Script, eventually, fake_workers, served
from tests.real.netns import network_namespace
from tests.real.running import wait_until
from tests.squatting import KINDS, clear, squat


@pytest.fixture
def scripted() -> Iterator[tuple[Script, Launcher]]:
    with network_namespace(), fake_workers() as both:
        yield both


@contextmanager
def _control(script: Script, path: Path, stderr: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[str]]:
    """A control process that serves the script's device; its helpers end with its workers."""
    command = [sys.executable, "-m", "tests.control_process", script.device, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True) as control:
        try:
            assert control.stdout
            assert control.stdout.readline() == "ready\n"
            yield control
        finally:
            control.kill()
            control.wait(120)
            leftovers.clear(script.device, get_log())


@contextmanager
def _stderr(kind: str) -> Iterator[int]:
    """A stream that cannot be written: its disk is full, its reader is gone, or does not read."""
    if kind == "full":
        fd = os.open("/dev/full", os.O_WRONLY)
        yield fd
        os.close(fd)
        return
    ours, theirs = os.pipe()
    if kind == "gone":
        os.close(ours)
    else:
        os.set_blocking(theirs, False)
        with suppress(BlockingIOError):
            while True:
                os.write(theirs, bytes(1 << 16))
        os.set_blocking(theirs, True)
    yield theirs
    os.close(theirs)
    if kind != "gone":
        os.close(ours)


@pytest.mark.parametrize("kind", ["full", "gone", "stalled"])
def test_a_log_that_cannot_be_written_stops_nothing(
    tmp_path: Path, scripted: tuple[Script, Launcher], kind: str
) -> None:
    script, _ = scripted
    path = tmp_path / "device.sock"

    async def attach() -> None:
        guest = Guest(str(path))
        await guest.attach(1 << 32)
        guest.close()

    with _stderr(kind) as stderr, _control(script, path, stderr) as control:
        for _ in range(2):
            asyncio.run(attach())
            killed = _workers(script)[0]
            os.kill(killed, signal.SIGKILL)
            wait_until(lambda killed=killed: _workers(script)[0] not in {0, killed}, "it is replaced")  # type: ignore[misc]
        control.send_signal(signal.SIGTERM)
        assert control.wait(120) == 0
    assert script.device not in segments.names()


def _workers(script: Script) -> list[int]:
    return [int(record.pid) for record in Segment.attach(script.device).workers]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_nothing_stays(
    tmp_path: Path, scripted: tuple[Script, Launcher], number: signal.Signals
) -> None:
    script, _ = scripted
    path = tmp_path / "device.sock"
    with _control(script, path) as control:
        pids = _workers(script)
        assert all(process.start_ticks(pid) for pid in pids)
        control.send_signal(number)
        assert control.wait(120) == 0
        assert not any(process.start_ticks(pid) for pid in pids)
    assert script.device not in segments.names()
    assert not path.exists()
    assert link.find("tap0") is None


def test_signals_that_are_not_to_end_it_do_not(tmp_path: Path, scripted: tuple[Script, Launcher]) -> None:
    script, _ = scripted
    path = tmp_path / "device.sock"

    async def attach() -> None:
        guest = Guest(str(path))
        await guest.attach(1 << 32)
        guest.close()

    with _control(script, path) as control:
        workers = _workers(script)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            for pid in (control.pid, *workers):
                os.kill(pid, number)
            asyncio.run(attach())
        assert _workers(script) == workers
        control.send_signal(signal.SIGTERM)
        assert control.wait(120) == 0


def test_a_terminal_that_goes_ends_it_and_nothing_stays(
    tmp_path: Path, scripted: tuple[Script, Launcher]
) -> None:
    script, _ = scripted
    ours, theirs = os.openpty()
    command = ["setsid", "--ctty", sys.executable, "-m", "tests.control_process", script.device]
    with subprocess.Popen(
        [*command, str(tmp_path / "s")], cwd=ROOT, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as control:
        os.close(theirs)
        try:
            assert control.stdout
            assert control.stdout.readline() == b"ready\n"
            os.close(ours)
            assert control.wait(120) == 0
        finally:
            control.kill()
    assert script.device not in segments.names()


def test_sighup_has_the_configuration_read_again_and_again() -> None:
    outcomes: list[MpnetError | None] = [MpnetError("it is no TOML"), None]
    read = asyncio.Event()

    class Told:
        """As much of a Control as is used."""

        devices: ClassVar[dict[str, Device]] = {}
        options = ControlConfig()
        reloading = asyncio.Event()

        def reread(self) -> RunConfig:
            if outcome := outcomes.pop(0):
                raise outcome
            read.set()
            return RunConfig(control=ControlConfig(log_level="debug"), devices=())

    async def run() -> None:
        told = Told()
        with handled_signals(lambda: None, told.reloading.set):
            async with reload_when_told(told):  # type: ignore[arg-type]
                os.kill(os.getpid(), signal.SIGHUP)
                await eventually(lambda: len(outcomes) == 1, "it was tried")
                os.kill(os.getpid(), signal.SIGHUP)
                await read.wait()
                await asyncio.sleep(0)

    with structlog.testing.capture_logs() as lines:
        asyncio.run(run())
    no_device = "the configuration describes no device, and those that are served are left as they are"
    assert [(line["event"], line.get("problem")) for line in lines] == [
        ("configuration not read again", "it is no TOML"),
        ("configuration not read again", no_device),
    ]


def test_workers_outlive_a_crash_and_the_next_run_clears_up(
    tmp_path: Path, scripted: tuple[Script, Launcher]
) -> None:
    script, launcher = scripted
    path = tmp_path / "device.sock"
    with _control(script, path) as control:
        pids = _workers(script)
        control.kill()
        control.wait(120)
        assert all(process.start_ticks(pid) for pid in pids)
        assert path.exists()
        assert link.find("tap0") is not None

        async def run() -> None:
            async with served(tmp_path, script, launcher, queue_pairs=2) as device:
                assert not any(process.start_ticks(pid) for pid in pids)
                guest = Guest(device.config.socket)
                await guest.attach(1 << 32)
                guest.close()

        asyncio.run(run())


def test_a_step_of_the_clock_hides_no_orphan(tmp_path: Path, scripted: tuple[Script, Launcher]) -> None:
    """Set forward by an hour, it makes each process seem to have begun an hour later than it wrote down."""
    script, _ = scripted
    with _control(script, tmp_path / "device.sock") as control:
        pids = _workers(script)
        control.kill()
        control.wait(120)
        Segment.attach(script.device).workers.start_ns -= 3600 * 10**9
        leftovers.clear(script.device, get_log())
        assert not any(process.start_ticks(pid) for pid in pids)


def test_an_orphan_that_shows_nobody_its_mappings_is_ended(
    tmp_path: Path, scripted: tuple[Script, Launcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    script, _ = scripted
    with _control(script, tmp_path / "device.sock") as control:
        pids = _workers(script)
        control.kill()
        control.wait(120)
        read = Path.read_text

        def refuse(path: Path, *arguments: Any, **words: Any) -> str:
            if path.name == "maps":
                raise PermissionError(errno.EACCES, "not dumpable")
            return read(path, *arguments, **words)

        monkeypatch.setattr(Path, "read_text", refuse)
        leftovers.clear(script.device, get_log())
        assert not any(process.start_ticks(pid) for pid in pids)


@pytest.mark.parametrize("made", KINDS)
def test_what_has_the_name_of_a_segment_and_is_none_stops_the_start_with_a_reason(
    tmp_path: Path, scripted: tuple[Script, Launcher], made: str
) -> None:
    script, launcher = scripted
    path = squat(script.device, made)

    async def run() -> None:
        async with served(tmp_path, script, launcher):
            raise AssertionError("it started")

    try:
        with pytest.raises(MpnetError, match=r"expected|is no shared memory"):
            asyncio.run(run())
        assert os.path.lexists(path), "what is not mpnet's is left where it is"
    finally:
        clear(path)


def test_a_device_that_is_served_is_left_alone(tmp_path: Path, scripted: tuple[Script, Launcher]) -> None:
    script, launcher = scripted
    with _control(script, tmp_path / "device.sock") as control:
        pids = _workers(script)

        async def run() -> None:
            async with served(tmp_path, script, launcher):
                raise AssertionError("it started")

        with pytest.raises(MpnetError, match=f"is served by another mpnet, process {control.pid}"):
            asyncio.run(run())
        assert all(process.start_ticks(pid) for pid in pids)
        control.terminate()
        assert control.wait(120) == 0


@pytest.mark.parametrize(("shift", "title"), [(1, "mpnet: {} worker 0"), (0, "sleep")])
def test_a_process_that_only_has_a_workers_number_is_left_alone(
    scripted: tuple[Script, Launcher], shift: int, title: str
) -> None:
    """One that began at another time, and one whose time a worker that its guest has taken over wrote down."""
    script, _ = scripted
    command = [title.format(script.device), "60"]
    with subprocess.Popen(command, executable="/usr/bin/sleep") as stranger:
        segment = Segment.create(script.device, 1)
        segment.header.control_pid = 0
        record = segment.workers[0]
        record.pid, record.start_ns = stranger.pid, 1 << 62
        record.start_ticks = process.start_ticks(stranger.pid) + shift
        leftovers.clear(script.device, get_log())
        assert stranger.poll() is None
        stranger.kill()
    assert script.device not in segments.names()
    segment.unlink()  # and closes its descriptor


def test_a_device_that_cannot_start_leaves_nothing(tmp_path: Path, scripted: tuple[Script, Launcher]) -> None:
    script, launcher = scripted
    script.add("1 AttachPair exit")
    config = DeviceConfig(id=script.device, tap="tap0", socket=str(tmp_path / "s"), queue_pairs=2, create=True)
    with pytest.raises(MpnetError, match=f"device {script.device}: worker 1 of .* ended at its start"):
        asyncio.run(_run(Control([config], launcher=launcher)))
    assert script.device not in segments.names()
    assert link.find("tap0") is None


def test_a_socket_that_cannot_be_bound_stops_the_device_again(
    tmp_path: Path, scripted: tuple[Script, Launcher]
) -> None:
    script, launcher = scripted
    path = tmp_path / "missing" / "device.sock"
    config = DeviceConfig(id=script.device, tap="tap0", socket=str(path), create=True)
    with pytest.raises(MpnetError, match=r"the folder .* is missing"):
        asyncio.run(_run(Control([config], launcher=launcher)))
    assert script.device not in segments.names()
    assert link.find("tap0") is None


async def _run(control: Control) -> None:
    await control.run()


@pytest.mark.parametrize("field", ["id", "tap", "socket"])
def test_two_devices_share_nothing(field: str, scripted: tuple[Script, Launcher]) -> None:
    one = {"id": "a", "tap": "t0", "socket": "/s0"}
    other = {"id": "b", "tap": "t1", "socket": "/s1", field: one[field]}
    with pytest.raises(ConfigError, match=f"two devices have {field}={one[field]}"):
        Control([DeviceConfig(**one), DeviceConfig(**other)], launcher=scripted[1])


def test_processors_this_process_may_not_use_are_refused(
    tmp_path: Path, scripted: tuple[Script, Launcher]
) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted, cpus=(1000,)):
            raise AssertionError("it started")

    with pytest.raises(ConfigError, match="processor 1000, which this process may not use"):
        asyncio.run(run())


def test_workers_are_pinned_in_turn(tmp_path: Path, scripted: tuple[Script, Launcher]) -> None:
    cpus = tuple(sorted(os.sched_getaffinity(0)))[:2]

    async def run() -> None:
        async with served(tmp_path, *scripted, queue_pairs=3, cpus=cpus) as device:
            pinned = [os.sched_getaffinity(device.supervisor.workers[slot].pid) for slot in range(3)]
            assert pinned == [{cpus[slot % len(cpus)]} for slot in range(3)]

    asyncio.run(run())


def test_a_signal_while_the_server_warms_up_ends_it(tmp_path: Path, scripted: tuple[Script, Launcher]) -> None:
    script, _ = scripted
    command = [sys.executable, "-m", "tests.control_process", script.device, str(tmp_path / "s"), "tests.endless"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as control:
        try:
            while script.device not in segments.names():
                assert control.poll() is None
            control.send_signal(signal.SIGTERM)
            assert control.wait(120) == 0
        finally:
            control.kill()
    assert script.device not in segments.names()
    assert link.find("tap0") is None


@pytest.mark.parametrize("number", [1 << 31, 1 << 62, -(1 << 62), -1])
def test_a_number_that_is_no_process_stops_no_start(scripted: tuple[Script, Launcher], number: int) -> None:
    script, _ = scripted
    segment = Segment.create(script.device, 1)
    segment.header.control_pid = 0
    segment.workers[0].pid = segment.workers[0].start_ticks = number
    leftovers.clear(script.device, get_log())
    assert script.device not in segments.names()
    segment.unlink()
