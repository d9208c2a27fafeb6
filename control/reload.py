"""Reading the configuration again: what can change at run time does, the rest is named and left as it is."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

import msgspec

from mpnet.config.control import ControlConfig
from mpnet.config.device import DeviceConfig
from mpnet.control.device import Device
from mpnet.control.log import get_log
from mpnet.control.server import Control
from mpnet.control.systemd import reloading
from mpnet.control.tasks import Tasks
from mpnet.errors import MpnetError

_RESTART = "it takes a restart"
_ANEW = f"{_RESTART}, or 'mpnet device remove' and another reload"


async def _set_workers(device: Device, config: DeviceConfig) -> None:
    await device.scale(config.worker_count)


async def _set_mtu(device: Device, config: DeviceConfig) -> None:
    if not config.mtu:
        raise MpnetError(f"the TAP's own mtu is not known any more: {_RESTART}", "or give one")
    await device.set("mtu", config.mtu)


async def _set_mac(device: Device, config: DeviceConfig) -> None:
    await device.set("mac", config.mac_octets.hex(":"))


async def _set_polling(device: Device, config: DeviceConfig) -> None:
    await device.set("poll-us", config.poll_us)


_CHANGES: Mapping[str, Callable[[Device, DeviceConfig], Awaitable[None]]] = MappingProxyType(
    {"workers": _set_workers, "mtu": _set_mtu, "mac": _set_mac, "poll_us": _set_polling}
)
"""Settings of a device that change while it runs."""


@asynccontextmanager
async def reload_when_told(control: Control) -> AsyncIterator[None]:
    """Read the configuration again whenever ``control.reloading`` is set, as by SIGHUP; the outcome is logged."""
    tasks = Tasks(get_log())
    tasks.keep(partial(_reload_when_told, control))
    try:
        yield
    finally:
        await tasks.cancel()


async def _reload_when_told(control: Control) -> None:
    while True:
        await control.reloading.wait()
        control.reloading.clear()
        try:
            await reload(control)
        except MpnetError as error:
            get_log().warning("configuration not read again", problem=error.problem, remedy=error.remedy)


async def reload(control: Control) -> dict[str, list[str]]:
    """Read the configuration again and carry out what has changed since it was last read.

    Returns:
        ``changed`` and ``refused``: a line for each setting, and for each device that came or went.

    Raises:
        MpnetError: the configuration cannot be used; nothing has changed.
    """
    with reloading():
        wanted = control.reread()
        outcome: dict[str, list[str]] = {"changed": [], "refused": []}
        refuse = outcome["refused"].append
        for name in _differences(control.options, wanted.control):
            refuse(f"[control] {_spelled(ControlConfig, name)}: {_RESTART}")
        configs = {config.id: config for config in wanted.devices}
        if not configs:
            raise MpnetError(
                "the configuration describes no device, and those that are served are left as they are",
                "'mpnet device remove NAME' removes one",
            )
        both = sorted(control.devices.keys() & configs.keys())
        # First those that go: another one may want their TAP or socket.
        for name in sorted(control.devices.keys() - configs.keys() - control.added):
            await _attempt(control.remove(name), f"device {name} removed", outcome)
        for name in both:
            await _reload_device(control.devices[name], configs[name], outcome)
        for name in sorted(configs.keys() - control.devices.keys()):
            await _attempt(control.add(configs[name]), f"device {name} added", outcome)
        control.added -= configs.keys()
    for line in outcome["changed"]:
        get_log().info("configuration changed", change=line)
    for line in outcome["refused"]:
        get_log().warning("configuration not changed", change=line)
    return outcome


async def _attempt(change: Awaitable[None], what: str, outcome: dict[str, list[str]]) -> None:
    try:
        await change
    except MpnetError as error:
        outcome["refused"].append(f"{what}: {error}")
    else:
        outcome["changed"].append(what)


async def _reload_device(device: Device, config: DeviceConfig, outcome: dict[str, list[str]]) -> None:
    for field in _differences(device.config, config):
        value = getattr(config, field)
        what = f"device {device.config.id}: {_spelled(DeviceConfig, field)}={value}"
        try:
            if field not in _CHANGES:
                raise MpnetError(_ANEW)
            await _CHANGES[field](device, config)
        except MpnetError as error:
            outcome["refused"].append(f"{what}: {error}")
        else:
            device.config = msgspec.structs.replace(device.config, **{field: value})
            outcome["changed"].append(what)


def _differences(before: Any, after: Any) -> list[str]:
    return [field for field in before.__struct_fields__ if getattr(before, field) != getattr(after, field)]


def _spelled(table: type[msgspec.Struct], name: str) -> str:
    """A setting's name as people write it."""
    return next(field.encode_name for field in msgspec.structs.fields(table) if field.name == name)
