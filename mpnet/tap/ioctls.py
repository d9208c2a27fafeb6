"""The TUN/TAP driver's ioctls, one function each (Linux, include/uapi/linux/if_tun.h).

Those about the device as a whole reach it through any queue of it that is attached; through a detached queue
they fail with EBADFD.
"""

import fcntl
import os
import socket
import struct
from pathlib import Path

CLONE_DEVICE = Path("/dev/net/tun")
MAX_QUEUES = 256
"""MAX_TAP_QUEUES of Linux."""

IFF_TAP = 0x0002
IFF_MULTI_QUEUE = 0x0100
IFF_ATTACH_QUEUE = 0x0200
IFF_DETACH_QUEUE = 0x0400
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000

TUN_F_CSUM = 0x01
TUN_F_TSO4 = 0x02
TUN_F_TSO6 = 0x04
TUN_F_TSO_ECN = 0x08
TUN_F_USO4 = 0x20
TUN_F_USO6 = 0x40

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ = 0x400454D8
_TUNSETQUEUE = 0x400454D9
_TUNSETVNETLE = 0x400454DC
_TUNSETCARRIER = 0x400454E2

_TUNGETIFF = 0x800454D2
_SIOCGIFINDEX = 0x8933
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_SIOCGIFMTU = 0x8921
_SIOCSIFMTU = 0x8922
_IFF_UP = 0x1

_IFREQ_SHORT = struct.Struct("16sH22x")
_IFREQ_INT = struct.Struct("16si20x")


def open_queue(name: str, *, multi_queue: bool) -> int:
    """Open one more queue of a TAP, non-blocking, with virtio-net headers; the TAP is made where there is none.

    Raises:
        OSError: as the kernel says.
    """
    fd = os.open(CLONE_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (IFF_MULTI_QUEUE if multi_queue else 0)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _IFREQ_SHORT.pack(name.encode(), flags))
    except OSError:
        os.close(fd)
        raise
    return fd


def set_queue(fd: int, *, attached: bool) -> None:
    """Attach a queue to its TAP, or detach it: the kernel then sends it no packets and drops what it holds."""
    flags = IFF_ATTACH_QUEUE if attached else IFF_DETACH_QUEUE
    fcntl.ioctl(fd, _TUNSETQUEUE, _IFREQ_SHORT.pack(b"", flags))


def set_header(fd: int, size: int) -> None:
    """Use little-endian virtio-net headers of ``size`` bytes on the whole TAP."""
    fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", size))
    fcntl.ioctl(fd, _TUNSETVNETLE, struct.pack("i", 1))


def set_offload(fd: int, flags: int) -> None:
    """Say which packets the reader takes unfinished: ``TUN_F_*``, for the whole TAP."""
    fcntl.ioctl(fd, _TUNSETOFFLOAD, flags)


def set_carrier(fd: int, *, up: bool) -> None:
    """Raise or drop the TAP's carrier; the TAP must be up."""
    fcntl.ioctl(fd, _TUNSETCARRIER, struct.pack("i", int(up)))


def belongs_to_device(fd: int) -> bool:
    """Whether a queue is attached to a TAP that is still there."""
    try:
        fcntl.ioctl(fd, _TUNGETIFF, _IFREQ_SHORT.pack(b"", 0))
    except OSError:
        return False
    return True


def interface_index(name: str) -> int:
    """The number of an interface, 0 where there is none; one that is made again has another."""
    try:
        return int(_IFREQ_INT.unpack(_interface_request(_SIOCGIFINDEX, _IFREQ_INT.pack(name.encode(), 0)))[1])
    except OSError:
        return 0


def interface_mtu(name: str) -> int:
    """Return the MTU of an interface."""
    return int(_IFREQ_INT.unpack(_interface_request(_SIOCGIFMTU, _IFREQ_INT.pack(name.encode(), 0)))[1])


def set_interface_mtu(name: str, mtu: int) -> None:
    """Set the MTU of an interface."""
    _interface_request(_SIOCSIFMTU, _IFREQ_INT.pack(name.encode(), mtu))


def interface_is_up(name: str) -> bool:
    """Tell whether an interface is up (its carrier aside)."""
    return bool(_interface_flags(name) & _IFF_UP)


def raise_interface(name: str) -> None:
    """Set an interface up, as ``ip link set NAME up`` does."""
    _interface_request(_SIOCSIFFLAGS, _IFREQ_SHORT.pack(name.encode(), _interface_flags(name) | _IFF_UP))


def _interface_flags(name: str) -> int:
    return int(_IFREQ_SHORT.unpack(_interface_request(_SIOCGIFFLAGS, _IFREQ_SHORT.pack(name.encode(), 0)))[1])


def _interface_request(request: int, argument: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        return fcntl.ioctl(sock, request, argument)
