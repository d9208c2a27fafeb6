"""What is behind a device on the host: a TAP, or nothing of the kernel's at all."""

from typing import TypeAlias

from mpnet.config.device import TAP, DeviceConfig
from mpnet.errors import MpnetError
from mpnet.tap.absent import NoTap
from mpnet.tap.tap import Tap

Port: TypeAlias = Tap | NoTap


def open_port(config: DeviceConfig) -> Port:
    """Take what ``config`` names, with the MTU it asks for.

    Raises:
        TapError: the TAP cannot be used.
    """
    port: Port = NoTap(config.queue_pairs)
    if config.backend == TAP:
        port = Tap.open(config.tap, config.queue_pairs, create=config.create)
    try:
        if config.mtu and port.mtu != config.mtu:
            port.set_mtu(config.mtu)
    except MpnetError:
        port.close()
        raise
    return port
