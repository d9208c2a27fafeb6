"""Devices that come and go while control runs: by command and by reload, and never at the expense of others."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from mpnet.config.control import ControlConfig
from mpnet.config.device import DeviceConfig
from mpnet.config.layer import RunConfig
from mpnet.control.launcher import Launcher
from mpnet.control.reload import reload
from mpnet.control.server import Control
from mpnet.errors import MpnetError
from mpnet.segment import process
from mpnet.segment import segment as segments
from mpnet.segment.segment import Segment
from mpnet.tap import link
from tests.control_harness import Guest, Script, fake_workers
from tests.fake_worker import script_of
from tests.real.netns import network_namespace
from tests.real.running import MPNET, Running

FEATURES = 1 << 32


@pytest.fixture
def scripted() -> Iterator[tuple[Script, Launcher]]:
    with network_namespace(), fake_workers() as both:
        yield both


class _Devices:
    """Descriptions of four devices, each with a name, a TAP, a socket and a script of its own."""

    def __init__(self, folder: Path, first: str) -> None:
        self._folder = folder
        self._names = [first, *(f"{first}-{number}" for number in (1, 2, 3))]
        for name in self._names[1:]:
            script_of(name).write_text("")

    def __getitem__(self, number: int) -> DeviceConfig:
        socket = str(self._folder / str(number))
        return DeviceConfig(id=self._names[number], tap=f"tap{number}", socket=socket, create=True)

    def close(self) -> None:
        for name in self._names[1:]:
            for path in script_of(name).parent.glob(f"{name}.*"):
                path.unlink()


@pytest.fixture
def devices(tmp_path: Path, scripted: tuple[Script, Launcher]) -> Iterator[_Devices]:
    made = _Devices(tmp_path, scripted[0].device)
    yield made
    made.close()


@asynccontextmanager
async def _serving(
    launcher: Launcher, *configs: DeviceConfig, wanted: list[DeviceConfig] | None = None
) -> AsyncIterator[Control]:
    options = ControlConfig()

    def reread() -> RunConfig:
        return RunConfig(control=options, devices=tuple(wanted or ()))

    control = Control(configs, options, launcher=launcher, reread=reread)
    ready = asyncio.Event()
    running = asyncio.create_task(control.run(ready.set))
    try:
        await asyncio.wait([running, asyncio.create_task(ready.wait())], return_when=asyncio.FIRST_COMPLETED)
        yield control
    finally:
        control.stopping.set()
        await running


def _nothing_left(config: DeviceConfig) -> bool:
    return not segments.exists(config.id) and not Path(config.socket).exists() and link.find(config.tap) is None


def test_a_device_comes_and_goes_and_another_ones_guest_notices_nothing(
    devices: _Devices, scripted: tuple[Script, Launcher]
) -> None:
    script, launcher = scripted

    async def run() -> None:
        async with _serving(launcher, devices[0]) as control:
            first = Guest(devices[0].socket)
            await first.attach(FEATURES)
            await first.start(0, 1)
            told = len(script.told())
            await control.add(devices[1])
            second = Guest(devices[1].socket)
            await second.attach(FEATURES)
            assert list(control.devices) == [devices[0].id, devices[1].id]
            pids = [int(record.pid) for record in Segment.attach(devices[1].id).workers]
            await control.remove(devices[1].id)
            assert await asyncio.to_thread(_nothing_left, devices[1])
            assert not any(process.start_ticks(pid) for pid in pids)
            second.close()
            assert list(control.devices) == [devices[0].id]
            assert len(script.told()) == told, "its workers were told nothing"
            assert await first.call(first.front_end.get_vring_base(0)) == 0
            first.close()
            await control.add(devices[1])
            assert devices[1].id in control.devices, "it can come again"
        assert await asyncio.to_thread(_nothing_left, devices[1])

    asyncio.run(run())


@pytest.mark.parametrize("fault", ["socket", "tap", "id", "folder", "worker"])
def test_a_device_that_cannot_be_added_leaves_nothing_and_disturbs_nobody(
    tmp_path: Path, devices: _Devices, scripted: tuple[Script, Launcher], fault: str
) -> None:
    launcher = scripted[1]
    given = {
        "socket": {"socket": devices[0].socket},
        "tap": {"tap": devices[0].tap},
        "id": {"id": devices[0].id},
        "folder": {"socket": str(tmp_path / "missing" / "s")},
        "worker": {},
    }
    wanted = msgspec.structs.replace(devices[1], **given[fault])
    script_of(devices[1].id).write_text("0 AttachPair exit\n" if fault == "worker" else "")

    async def run() -> None:
        async with _serving(launcher, devices[0]) as control:
            with pytest.raises(MpnetError):
                await control.add(wanted)
            assert list(control.devices) == [devices[0].id]
            assert Path(devices[0].socket).exists()
            if fault not in {"id", "tap", "socket"}:
                assert await asyncio.to_thread(_nothing_left, wanted)
            guest = Guest(devices[0].socket)
            await guest.attach(FEATURES)
            guest.close()

    asyncio.run(run())


def test_a_reload_adds_what_is_new_and_removes_what_is_gone(
    devices: _Devices, scripted: tuple[Script, Launcher]
) -> None:
    launcher = scripted[1]
    wanted = [devices[0]]

    async def run() -> None:
        async with _serving(launcher, devices[0], devices[1], wanted=wanted) as control:
            guest = Guest(devices[0].socket)
            await guest.attach(FEATURES)
            await control.add(devices[3])
            control.added.add(devices[3].id)
            # The new one has the TAP and the socket of the one that goes.
            renamed = DeviceConfig(id=devices[2].id, tap=devices[1].tap, socket=devices[1].socket, create=True)
            wanted.append(renamed)
            outcome = await reload(control)
            assert outcome == {
                "changed": [f"device {devices[1].id} removed", f"device {devices[2].id} added"],
                "refused": [],
            }
            assert set(control.devices) == {devices[0].id, devices[2].id, devices[3].id}
            assert await reload(control) == {"changed": [], "refused": []}
            del wanted[1]
            wanted.append(DeviceConfig(id=devices[2].id, tap="tap9", socket=devices[3].socket, create=True))
            refused = (await reload(control))["refused"]
            assert [line.partition(": ")[2].partition("=")[0] for line in refused] == ["tap", "socket"]
            wanted.clear()
            with pytest.raises(MpnetError, match="describes no device, and those that are served are left"):
                await reload(control)
            await guest.call(guest.front_end.get_config(0, 24))
            guest.close()

    asyncio.run(run())


def test_control_stops_while_a_device_is_being_added(
    devices: _Devices, scripted: tuple[Script, Launcher]
) -> None:
    launcher = scripted[1]
    script_of(devices[1].id).write_text("0 AttachPair pause\n")

    async def run() -> None:
        async with _serving(launcher, devices[0]) as control:
            adding = asyncio.create_task(control.add(devices[1]))
            while not segments.exists(devices[1].id):
                await asyncio.sleep(0.001)
        await asyncio.wait([adding])
        assert await asyncio.to_thread(_nothing_left, devices[0])
        assert await asyncio.to_thread(_nothing_left, devices[1])

    asyncio.run(run())


def test_the_commands_add_and_remove_a_device(tmp_path: Path) -> None:
    with Running(tmp_path, None, words="backend=null", environment={"MPNET_JIT": "0"}) as running:
        environment = os.environ | {"MPNET_CONTROL_SOCKET": str(running.control)}

        def device(*words: str) -> subprocess.CompletedProcess[str]:
            command = [MPNET, "device", *words]
            return subprocess.run(
                command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
            )

        assert (
            device("add", "id=net1,backend=null,socket=net1.sock,queue-pairs=2,socket-mode=0640").returncode == 0
        )
        assert (tmp_path / "net1.sock").stat().st_mode & 0o777 == 0o640
        assert running.call("device.show", device="net1")["config"]["socket"] == str(tmp_path / "net1.sock")
        assert running.metric("mpnet_device_queue_pairs", device="net1") == 2
        assert int(Segment.attach("net1").header.metrics_port) == running.port
        again = device("add", "id=net1,backend=null,socket=x")
        assert (again.returncode, again.stderr) == (
            1,
            "mpnet: error: two devices have id=net1: give each device its own\n",
        )
        assert "a descriptor of another process" in device("add", "id=net2,backend=null,socket=fd:3").stderr
        config = {"id": "net2", "backend": "null", "socket": "/s", "queue-pairs": 65}
        with pytest.raises(MpnetError, match="queue-pairs is 65"):
            running.call("device.add", config=config)
        assert device("remove", "net1").returncode == 0
        assert device("remove", "net1").stderr.startswith("mpnet: error: there is no device 'net1'")
        assert not (tmp_path / "net1.sock").exists()
        assert running.metrics()
