"""What commands change about the set of devices: one more, one less, or as the configuration has it by now."""

from collections.abc import Callable
from typing import Any

import msgspec

from mpnet.config.device import DeviceConfig
from mpnet.config.place import FieldError
from mpnet.control.management import Handler
from mpnet.control.reload import reload
from mpnet.control.server import Control
from mpnet.errors import ConfigError
from mpnet.rpc.management import AddParams, DeviceParams


def change_handlers(control: Control, describe: Callable[[str], Any]) -> dict[str, Handler]:
    """Give what answers ``device.add``, ``device.remove`` and ``control.reload``.

    Args:
        control: whose devices they are.
        describe: gives what is told of a device, by its name.
    """

    async def add(params: AddParams) -> Any:
        config = _read(params.config)
        await control.add(config)
        control.added.add(config.id)
        return describe(config.id)

    async def remove(params: DeviceParams) -> Any:
        await control.remove(params.device)

    return {"device.add": add, "device.remove": remove, "control.reload": lambda _: reload(control)}


def _read(settings: dict[str, Any]) -> DeviceConfig:
    try:
        config = msgspec.convert(settings, DeviceConfig)
    except FieldError as error:
        raise ConfigError(error.problem, error.remedy) from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"the device cannot be used: {error}".replace("`", "'")) from None
    if config.socket_fd is not None:
        raise ConfigError(
            f"socket is {config.socket!r}, a descriptor of another process", "give the path of a socket"
        )
    return config
