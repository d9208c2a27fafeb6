"""The control process: devices, their sockets, and the services that look at them."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import Any

from mpnet.config.control import ControlConfig
from mpnet.config.device import DeviceConfig
from mpnet.config.layer import RunConfig
from mpnet.control.device import Device
from mpnet.control.endpoint import Endpoint
from mpnet.control.files import raise_limit
from mpnet.control.launcher import Launcher
from mpnet.control.log import get_log
from mpnet.control.signals import handled_signals
from mpnet.control.worker import Limits
from mpnet.errors import ConfigError, MpnetError

Service = Callable[["Control"], AbstractAsyncContextManager[object]]
"""Something that runs beside the devices, as the management socket; entered once they are up."""
_ABORT_SECONDS = 0.1
"""How often a start that is to end is looked at again."""


class Control:
    """All devices of one control process.

    Attributes:
        options: of the process.
        devices: by id; a new mapping with each change, so that threads may go through one.
        added: ids of devices that came by ``add`` and are in no configuration.
        metrics_port: where metrics are served; 0 while they are not.
        stopping: set it to end ``run``.
        reloading: set it to have the configuration read again, where a service waits for that.

    Args:
        configs: the devices to serve; their ids, TAPs and sockets differ.
        options: of the process.
        services: what runs beside the devices.
        launcher: what starts workers; started already where start-up time counts.
        limits: how long to wait for workers.
        reread: reads the configuration again, where there is one to read.

    Raises:
        ConfigError: two devices share an id, a TAP or a socket.
    """

    def __init__(
        self,
        configs: Sequence[DeviceConfig],
        options: ControlConfig | None = None,
        services: Sequence[Service] = (),
        launcher: Launcher | None = None,
        limits: Limits | None = None,
        reread: Callable[[], RunConfig] | None = None,
    ) -> None:
        _check_distinct(configs)
        self._reread = reread
        self.options = options or ControlConfig()
        self.stopping = asyncio.Event()
        self.reloading = asyncio.Event()
        self._launcher = launcher or Launcher()
        self._limits = limits
        self.devices = {config.id: Device(config, self._launcher, limits) for config in configs}
        self.added: set[str] = set()
        self.metrics_port = 0
        self._stacks: dict[str, AsyncExitStack] = {}
        self._turn = asyncio.Lock()
        self._change: asyncio.Task[None] | None = None
        self._services = services
        self._log = get_log()

    def reread(self) -> RunConfig:
        """Read the configuration again.

        Raises:
            MpnetError: there is none, or it cannot be used.
        """
        if self._reread is None:
            raise MpnetError(
                "there is no configuration file to read again", "start with 'mpnet run --config FILE'"
            )
        return self._reread()

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until SIGTERM, SIGINT or ``stopping``, then leave nothing behind.

        Args:
            ready: called once every device waits for its front-end and every service runs.

        Raises:
            MpnetError: a device or a service cannot start; those that had are stopped again.
        """
        self._launcher.warm_up()
        asyncio.get_running_loop().set_exception_handler(self._unhandled)
        try:
            with handled_signals(self.stopping.set, self.reloading.set):
                async with AsyncExitStack() as stack:
                    if await self._start_unless_stopped(stack):
                        ready()
                        await self.stopping.wait()
                    self._log.info("stopping")
        finally:
            self._launcher.close()

    def _unhandled(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log what went wrong in a callback of the event loop, which goes on."""
        self._log.error("callback failed", problem=context["message"], exc_info=context.get("exception"))

    async def _start_unless_stopped(self, stack: AsyncExitStack) -> bool:
        """Start everything; False when it is to stop before that is done, as while the first run compiles."""
        starting = asyncio.create_task(self._start(stack))
        stopping = asyncio.create_task(self.stopping.wait())
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            await self._abort(starting)
            with suppress(MpnetError):
                await starting
            return False
        stopping.cancel()
        starting.result()
        return True

    async def _abort(self, starting: asyncio.Task[None]) -> None:
        """End a start that waits for workers; a worker's start that was just under way makes a server anew."""
        while not starting.done():
            self._launcher.abort()
            await asyncio.wait([starting], timeout=_ABORT_SECONDS)

    async def _start(self, stack: AsyncExitStack) -> None:
        stack.push_async_callback(self._stop_devices)
        results = await asyncio.gather(
            *(self._start_device(device) for device in self.devices.values()), return_exceptions=True
        )
        for result in results:
            if result is not None:
                raise result
        stack.push_async_callback(self._stop_changing)
        for service in self._services:
            await stack.enter_async_context(service(self))
        self._log.info("serving", devices=" ".join(self.devices), pid=os.getpid())

    async def _start_device(self, device: Device) -> None:
        # A device is one step: its endpoint is closed before its workers are stopped.
        stack = self._stacks[device.config.id] = AsyncExitStack()
        try:
            await device.start()
            stack.push_async_callback(device.stop)
            device.segment.header.metrics_port = self.metrics_port
            endpoint = Endpoint(device, self._left)
            endpoint.open()
            stack.push_async_callback(endpoint.close)
        except MpnetError as error:
            raise MpnetError(f"device {device.config.id}: {error.problem}", error.remedy) from error

    async def _stop_devices(self) -> None:
        for name in reversed(self._stacks):
            await self._stacks[name].aclose()

    async def _stop_changing(self) -> None:
        """Let no device be half added or removed; one that waits for workers, in vain."""
        if self._change and not self._change.done():
            await self._abort(self._change)

    async def add(self, config: DeviceConfig) -> None:
        """Serve one more device, beside those there are.

        Raises:
            MpnetError: it shares an id, a TAP or a socket with another one, or cannot start.
        """
        async with self._turn:
            _check_distinct([*(device.config for device in self.devices.values()), config])
            raise_limit([*(device.config for device in self.devices.values()), config])
            await self._carry_out(self._add(Device(config, self._launcher, self._limits)))

    async def _add(self, device: Device) -> None:
        name = device.config.id
        try:
            await self._start_device(device)
        except BaseException:
            await self._stacks.pop(name).aclose()
            raise
        self.devices = {**self.devices, name: device}
        self._log.info("device added", device=name)

    async def remove(self, name: str) -> None:
        """Serve a device no more: its front-end is hung up on, and nothing of it stays.

        Raises:
            MpnetError: there is none of that id.
        """
        async with self._turn:
            if name not in self.devices:
                raise MpnetError(f"there is no device {name!r}", "see 'mpnet device list'")
            await self._carry_out(self._remove(name))

    async def _remove(self, name: str) -> None:
        self.devices = {key: device for key, device in self.devices.items() if key != name}
        self.added.discard(name)
        await self._stacks.pop(name).aclose()
        self._log.info("device removed", device=name)

    async def _carry_out(self, change: Coroutine[Any, Any, None]) -> None:
        """Do it to its end, even if nobody waits for that any more."""
        if self.stopping.is_set():
            change.close()
            raise MpnetError("mpnet is being stopped")
        self._change = asyncio.create_task(change)
        await asyncio.shield(self._change)

    def _left(self, device: Device) -> None:
        """The one front-end a device could ever have is gone: stop when it was the only device."""
        if len(self.devices) == 1:
            device.log.info("the inherited socket is closed: nobody else can come")
            self.stopping.set()


def _check_distinct(configs: Sequence[DeviceConfig]) -> None:
    for field in ("id", "tap", "socket"):
        seen: set[str] = set()
        for config in configs:
            value = getattr(config, field)
            if value and value in seen:
                raise ConfigError(f"two devices have {field}={value}", "give each device its own")
            seen.add(value)
