"""What tests of the control process share: fake workers with a script, and a front-end that speaks vhost-user."""

import asyncio
import json
import os
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from mpnet.config.device import DeviceConfig
from mpnet.control.device import Device
from mpnet.control.endpoint import Endpoint
from mpnet.control.launcher import Launcher
from mpnet.control.worker import Limits
from mpnet.vhost_user.effects import MemoryRegion
from mpnet.vhost_user.frontend import Call, Frontend, Steps, drive, parse_reply
from mpnet.vhost_user.messages import HEADER, Message
from mpnet.vhost_user.ring import Ring
from tests.fake_worker import script_of

ROOT = Path(__file__).parent.parent
QUICK = Limits(start=60.0, answer=60.0, leave=60.0, terminate=60.0)
"""For tests in which nothing hangs: long, so that a busy machine changes nothing."""
HASTY = Limits(start=60.0, answer=0.5, leave=0.2, terminate=2.0)
"""For what hangs, and for nothing else: a busy machine may take as long for a good answer."""


class Script:
    """A fake device's name, what its workers shall do, and what they were told."""

    def __init__(self) -> None:
        self.device = f"test-{uuid.uuid4().hex[:12]}"
        self._path = script_of(self.device)
        self._path.write_text("")

    def add(self, *lines: str) -> None:
        with self._path.open("a") as script:
            script.writelines(f"{line}\n" for line in lines)

    def told(self, request: str | None = None, slot: int | None = None) -> list[dict[str, Any]]:
        """What workers were told, oldest first."""
        log = self._path.with_suffix(".log")
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [line for line in lines if request in {None, line["type"]} and slot in {None, line["slot"]}]

    def remove(self) -> None:
        for path in self._path.parent.glob(f"{self._path.stem}.*"):
            path.unlink()


@contextmanager
def fake_workers() -> Iterator[tuple[Script, Launcher]]:
    """A script, and a launcher of workers that follow it."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))  # workers import this folder by the parent's path
    script, launcher = Script(), Launcher("tests.fake_worker:run", (), mode="0")
    try:
        yield script, launcher
    finally:
        launcher.close()
        script.remove()


async def eventually(holds: Callable[[], Any], what: str) -> None:
    """Wait until ``holds()``; the test's own time limit ends a wait in vain."""
    for _ in range(6000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"never: {what}")


@asynccontextmanager
async def served(
    folder: Path, script: Script, launcher: Launcher, limits: Limits = QUICK, **options: Any
) -> AsyncIterator[Device]:
    """A device on a TAP of its own, with fake workers, waiting for a front-end."""
    config = DeviceConfig(
        id=script.device, tap="tap0", socket=str(folder / "device.sock"), create=True, **options
    )
    device = Device(config, launcher, limits)
    await device.start()
    endpoint = Endpoint(device, lambda _device: None)
    try:
        endpoint.open()
        yield device
    finally:
        await endpoint.close()
        await device.stop()


class Guest:
    """A front-end with memory, attached to a device in the same event loop."""

    def __init__(self, path: str) -> None:
        self.front_end = Frontend()
        self.memory = os.memfd_create("guest")
        os.truncate(self.memory, 1 << 20)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(path)
        self._fds: list[int] = []

    async def run(self, steps: Steps) -> None:
        await asyncio.to_thread(drive, steps, self._exchange)

    async def call(self, call: Call) -> Any:
        reply = await asyncio.to_thread(self._exchange, call)
        return parse_reply(call, reply) if reply else None

    def _exchange(self, call: Call) -> Message | None:
        socket.send_fds(self.sock, [call.data], list(call.fds))
        if not call.reply:
            return None
        request, flags, size = HEADER.unpack(self._read(HEADER.size))
        return Message(request, self._read(size), (), flags)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            if not piece:
                raise ConnectionError("the device has hung up")
            data += piece
        return data

    async def attach(self, features: int) -> None:
        """Negotiate and share memory."""
        await self.run(self.front_end.negotiate(features))
        await self.run(self.front_end.share_memory([MemoryRegion(0, 1 << 20, 0x10000000, 0, self.memory)]))

    async def start(self, *rings: int, base: int = 0) -> None:
        """Start and enable rings of 64 entries, each with parts of its own."""
        for index in rings:
            start = 0x10000000 + 0x4000 * index
            kick, call = os.eventfd(0), os.eventfd(0)
            self._fds += [kick, call]
            ring = Ring(
                index,
                size=64,
                descriptor_address=start,
                avail_address=start + 0x1000,
                used_address=start + 0x2000,
                base=base,
                kick_fd=kick,
                call_fd=call,
            )
            await self.run(self.front_end.start_ring(ring))

    def close(self) -> None:
        self.sock.close()
        for fd in (self.memory, *self._fds):
            with suppress(OSError):
                os.close(fd)
