"""What the back-end's state machine asks its session to do; the session performs them in order.

Who owns a file descriptor: the machine does, from the message that brought it until the ``CloseFds`` that
gives it up. A session that hands a descriptor to a worker passes a duplicate, and never closes one of its own
accord.
"""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class MemoryRegion:
    """A piece of guest memory the front-end shares (vhost-user.rst, "Memory region description").

    Attributes:
        guest_address: guest physical address of the first byte.
        size: bytes.
        user_address: the same byte's address in the front-end, which ring addresses refer to.
        offset: where the region begins in the file, in bytes.
        fd: the file to map.
    """

    guest_address: int
    size: int
    user_address: int
    offset: int
    fd: int


@dataclass(frozen=True, slots=True)
class Send:
    """Write ``data``, with ``fds`` attached to its first byte, to the front-end."""

    data: bytes
    fds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Close:
    """End the session: the front-end broke the protocol. Log ``reason``, then call ``disconnected()``."""

    reason: str


@dataclass(frozen=True, slots=True)
class CloseFds:
    """Close ``fds``: the machine is done with them, or never wanted them."""

    fds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SetFeatures:
    """Use the negotiated virtio ``features``; bit 30 (VHOST_USER_PROTOCOL_FEATURES) is left in."""

    features: int


@dataclass(frozen=True, slots=True)
class SetMemory:
    """Map this whole table in place of the last one; rings that are started go on, on the new mapping."""

    regions: tuple[MemoryRegion, ...]


@dataclass(frozen=True, slots=True)
class StartRing:
    """Serve ring ``index``: its size, addresses and kick (a descriptor, or polling) are all known."""

    index: int


@dataclass(frozen=True, slots=True)
class UpdateRing:
    """Started ring ``index`` has a new kick, call or error descriptor, log address, flag or enabled state."""

    index: int


@dataclass(frozen=True, slots=True)
class StopRing:
    """Stop ring ``index`` and drain it: once performed, nobody touches its memory nor its descriptors."""

    index: int


@dataclass(frozen=True, slots=True)
class SetMtu:
    """The front-end tells the guest's ``mtu``, in bytes (NET_SET_MTU)."""

    mtu: int


@dataclass(frozen=True, slots=True)
class SetStatus:
    """The driver's device ``status`` changed (VIRTIO 2.1); 0, a reset, comes after every ring has stopped."""

    status: int


@dataclass(frozen=True, slots=True)
class Reset:
    """Forget the negotiated features and the driver's doing (RESET_DEVICE, RESET_OWNER); rings have stopped.

    Guest memory stays: the front-end does not share it again.
    """


@dataclass(frozen=True, slots=True)
class WriteConfig:
    """Write ``data`` at byte ``offset`` of the device's configuration space (SET_CONFIG).

    ``flags`` is 0 for a write by the driver and 1 for one by live migration.
    """

    offset: int
    data: bytes
    flags: int


@dataclass(frozen=True, slots=True)
class SetBackendChannel:
    """Send back-end requests (CONFIG_CHANGE_MSG) on ``fd``; None: on no channel from now on."""

    fd: int | None


Effect: TypeAlias = (
    Send
    | Close
    | CloseFds
    | SetFeatures
    | SetMemory
    | StartRing
    | UpdateRing
    | StopRing
    | SetMtu
    | SetStatus
    | Reset
    | WriteConfig
    | SetBackendChannel
)
