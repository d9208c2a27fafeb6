"""What runs beside the devices: the management socket and the metrics."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mpnet
from mpnet.config.control import ControlConfig
from mpnet.control.changes import change_handlers
from mpnet.control.describe import describe_device, describe_workers
from mpnet.control.device import Device
from mpnet.control.exporter import Exporter
from mpnet.control.first_packet import process_start_ns, start_to_first_packet, start_to_first_ring
from mpnet.control.log import get_log, tell_left_out
from mpnet.control.management import Handler, ManagementServer, bind
from mpnet.control.metrics import Metrics
from mpnet.control.observation import observation_handlers
from mpnet.control.server import Control
from mpnet.control.tasks import Tasks
from mpnet.errors import MpnetError
from mpnet.rpc.management import DeviceParams, NoParams, ScaleParams, SetParams, default_socket_path

NO_SOCKET = "none"
"""As ``ControlConfig.socket``: be without a management socket."""

_SAMPLE_SECONDS = 5.0
"""How much of a killed worker's processor time the metrics may miss."""


def listen(options: ControlConfig) -> socket.socket | None:
    """Bind the management socket, if there is to be one: who connects before it is served waits.

    Raises:
        MpnetError: the path cannot be bound.
    """
    path = _path(options)
    return bind(path) if path else None


@asynccontextmanager
async def look_after(control: Control, listener: socket.socket | None = None) -> AsyncIterator[None]:
    """Serve metrics and the management socket, as the options have it, for as long as the context lasts.

    Args:
        control: the process.
        listener: what ``listen`` gave; bound here where none is given.

    Raises:
        MpnetError: an address or a path cannot be bound.
    """
    metrics = Metrics(lambda: [device.segment for device in control.devices.values()])
    server = _management(control, metrics)
    exporter = Exporter(metrics, control.options.metrics_names)
    tasks = Tasks(get_log())
    tasks.keep(partial(_sample, control, metrics))
    try:
        if endpoint := control.options.metrics_endpoint:
            port = await exporter.serve(*endpoint)
            control.metrics_port = port
            for device in control.devices.values():
                device.segment.header.metrics_port = port
            get_log().info("metrics", url=f"http://{control.options.metrics.rpartition(':')[0]}:{port}/metrics")
        if server:
            await server.start(listener)
        yield
    finally:
        await tasks.cancel()
        if server:
            await server.close()
        await exporter.close()


async def _sample(control: Control, metrics: Metrics) -> None:
    while True:
        for device in control.devices.values():
            metrics.usages.keep_up(device.segment)
        tell_left_out()
        await asyncio.sleep(_SAMPLE_SECONDS)


def _management(control: Control, metrics: Metrics) -> ManagementServer | None:
    path = _path(control.options)
    return ManagementServer(path, make_handlers(control), metrics.observe_request) if path else None


def _path(options: ControlConfig) -> Path | None:
    if options.socket == NO_SOCKET:
        return None
    return Path(options.socket) if options.socket else default_socket_path()


def make_handlers(control: Control) -> dict[str, Handler]:
    """Give what answers each method of ``METHODS`` for a control process."""
    start_ns = process_start_ns()

    def find(name: str) -> Device:
        if name not in control.devices:
            known = ", ".join(control.devices) or "none"
            raise MpnetError(f"there is no device {name!r}, expected one of: {known}", "see 'mpnet device list'")
        return control.devices[name]

    def describe(device: Device) -> dict[str, Any]:
        return describe_device(device) | {
            "start_to_first_ring_seconds": start_to_first_ring(device.first_ring_ns, start_ns),
            "start_to_first_packet_seconds": start_to_first_packet(device.segment, start_ns),
        }

    async def show_control(_: NoParams) -> Any:
        return {
            "version": mpnet.__version__,
            "pid": os.getpid(),
            "metrics": control.options.metrics,
            "devices": list(control.devices),
        }

    async def list_devices(_: NoParams) -> Any:
        return [describe(device) for device in control.devices.values()]

    async def show_device(params: DeviceParams) -> Any:
        return describe(find(params.device))

    async def set_device(params: SetParams) -> Any:
        device = find(params.device)
        await device.set(params.name, params.value)
        return describe(device)

    async def list_workers(_: NoParams) -> Any:
        return [
            {"device": name, **worker}
            for name, device in control.devices.items()
            for worker in describe_workers(device)
        ]

    async def scale_workers(params: ScaleParams) -> Any:
        device = find(params.device)
        await device.scale(params.count)
        return describe(device)

    return {
        "control.show": show_control,
        "device.list": list_devices,
        "device.show": show_device,
        "device.set": set_device,
        "worker.list": list_workers,
        "worker.scale": scale_workers,
        **change_handlers(control, lambda name: describe(find(name))),
        **observation_handlers(find),
    }
