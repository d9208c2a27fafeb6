"""The network card of a QEMU guest, as a served device describes it."""

from pathlib import Path

import msgspec

from mpnet.cli.options import call
from mpnet.errors import MpnetError
from mpnet.guest.linux.qemu import VhostUserNic
from mpnet.rpc.state import DeviceReport


def nic_of(device: str, socket: Path | None) -> VhostUserNic:
    """Give the card that attaches to a device: socket, queue pairs, MAC address and MTU are the device's.

    Args:
        device: its name.
        socket: the management socket; None for the usual one.

    Raises:
        MpnetError: no such device, or it waits for no front-end.
    """
    report = msgspec.convert(call(socket, "device.show", device=device), DeviceReport)
    if report.config.client:
        raise MpnetError(
            f"device {device!r} connects to the front-end's socket, but QEMU is to connect to the device's",
            "serve the device without client=on",
        )
    return VhostUserNic(
        name=report.id,
        # QEMU and libvirt run in folders of their own.
        socket=str(Path(report.config.socket).absolute()),
        queue_pairs=report.offered_pairs,
        mac=report.mac,
        mtu=report.mtu or None,
    )
