"""What the kernel tells about an interface before a queue of it is opened.

Over rtnetlink: ``/sys/class/net`` shows the network namespace in which /sys was mounted, which need not be this
process's own.
"""

import errno
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

_TYPE_TAP = 2


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as it is.

    Attributes:
        kind: ``tun`` for a TUN or a TAP; empty for hardware.
        tap: it carries Ethernet frames (TAP), not IP packets (TUN).
        multi_queue: several queues may be open at once.
        vnet_hdr: packets have virtio-net headers.
        open_queues: queues that are open now, attached or not.
        owner: user that may open it besides the administrator; None where it is nobody.
    """

    kind: str
    tap: bool = False
    multi_queue: bool = False
    vnet_hdr: bool = False
    open_queues: int = 0
    owner: int | None = None


def find(name: str) -> Link | None:
    """Look ``name`` up in this process's network namespace; None when there is no such interface.

    Not to be called from a coroutine: pyroute2 runs an event loop of its own.
    """
    with IPRoute() as netlink:
        try:
            messages = list(netlink.link("get", ifname=name))
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise
    return _read(messages[0])


def _read(message: Any) -> Link:
    kind = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or ""
    data = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
    if kind != "tun" or data is None:
        return Link(kind)
    queues = (data.get_attr("IFLA_TUN_NUM_QUEUES"), data.get_attr("IFLA_TUN_NUM_DISABLED_QUEUES"))
    return Link(
        kind,
        tap=data.get_attr("IFLA_TUN_TYPE") == _TYPE_TAP,
        multi_queue=bool(data.get_attr("IFLA_TUN_MULTI_QUEUE")),
        vnet_hdr=bool(data.get_attr("IFLA_TUN_VNET_HDR")),
        open_queues=sum(count or 0 for count in queues),
        owner=data.get_attr("IFLA_TUN_OWNER"),
    )
