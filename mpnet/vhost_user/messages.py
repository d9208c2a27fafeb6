"""vhost-user messages as bytes (vhost-user.rst, "Message Specification").

A message is a header of three u32 (request, flags, payload size), a payload, and file descriptors beside it.
All numbers are in the machine's own byte order: both ends run on one host.
"""

import enum
import struct
from dataclasses import astuple, dataclass
from typing import ClassVar, Self

from mpnet.errors import ProtocolError


class Request(enum.IntEnum):
    """Requests from the front-end, without the ``VHOST_USER_`` prefix."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    SET_BACKEND_REQ_FD = 21
    IOTLB_MSG = 22
    SET_VRING_ENDIAN = 23
    GET_CONFIG = 24
    SET_CONFIG = 25
    CREATE_CRYPTO_SESSION = 26
    CLOSE_CRYPTO_SESSION = 27
    POSTCOPY_ADVISE = 28
    POSTCOPY_LISTEN = 29
    POSTCOPY_END = 30
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    GPU_SET_SOCKET = 33
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40
    GET_SHARED_OBJECT = 41
    SET_DEVICE_STATE_FD = 42
    CHECK_DEVICE_STATE = 43


class BackendRequest(enum.IntEnum):
    """Requests from the back-end, on the channel SET_BACKEND_REQ_FD sets up."""

    IOTLB_MSG = 1
    CONFIG_CHANGE_MSG = 2
    VRING_HOST_NOTIFIER_MSG = 3
    VRING_CALL = 4
    VRING_ERR = 5


class ProtocolFeature(enum.IntEnum):
    """Bit numbers of GET/SET_PROTOCOL_FEATURES, without the ``VHOST_USER_PROTOCOL_F_`` prefix."""

    MQ = 0
    LOG_SHMFD = 1
    RARP = 2
    REPLY_ACK = 3
    NET_MTU = 4
    BACKEND_REQ = 5
    CROSS_ENDIAN = 6
    CRYPTO_SESSION = 7
    PAGEFAULT = 8
    CONFIG = 9
    BACKEND_SEND_FD = 10
    HOST_NOTIFIER = 11
    INFLIGHT_SHMFD = 12
    RESET_DEVICE = 13
    INBAND_NOTIFICATIONS = 14
    CONFIGURE_MEM_SLOTS = 15
    STATUS = 16
    XEN_MMAP = 17
    SHARED_OBJECT = 18
    DEVICE_STATE = 19
    GET_VRING_BASE_INFLIGHT = 20


def protocol_mask(*features: ProtocolFeature) -> int:
    """Return the set of protocol features holding ``features``."""
    bits = 0
    for feature in features:
        bits |= 1 << feature
    return bits


# QEMU acks every bit offered, implemented or not: a bit here is a promise that the code behind it is whole.
SUPPORTED_PROTOCOL_FEATURES = protocol_mask(
    ProtocolFeature.MQ,
    ProtocolFeature.REPLY_ACK,
    ProtocolFeature.NET_MTU,
    ProtocolFeature.BACKEND_REQ,
    ProtocolFeature.CONFIG,
    ProtocolFeature.RESET_DEVICE,
    ProtocolFeature.CONFIGURE_MEM_SLOTS,
    ProtocolFeature.STATUS,
)

HEADER = struct.Struct("=III")
VERSION = 1
VERSION_MASK = 0x3
REPLY_FLAG = 1 << 2
NEED_REPLY_FLAG = 1 << 3

MAX_PAYLOAD = 4096
"""Bytes; far above the largest request known (GET_CONFIG, 268), so that one too large is refused by name."""
MAX_FDS = 8
"""File descriptors beside one message; SET_MEM_TABLE brings the most."""

VRING_INDEX_MASK = 0xFF
VRING_NOFD_FLAG = 1 << 8
VRING_LOG_FLAG = 1 << 0
MAX_TABLE_REGIONS = 8
MAX_CONFIG_SIZE = 256
CONFIG_FLAG_MIGRATION = 1


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it came or goes; ``request`` may be a number without a name."""

    request: int
    payload: bytes = b""
    fds: tuple[int, ...] = ()
    flags: int = VERSION

    def pack(self) -> bytes:
        """Return header and payload as they go on the wire; ``fds`` go beside the first byte."""
        return HEADER.pack(self.request, self.flags, len(self.payload)) + self.payload

    @property
    def needs_reply(self) -> bool:
        """The sender asks for an acknowledgement, which it gets where REPLY_ACK was negotiated."""
        return bool(self.flags & NEED_REPLY_FLAG)

    @property
    def name(self) -> str:
        """The front-end request's name, or its number where it has none."""
        try:
            return Request(self.request).name
        except ValueError:
            return f"request {self.request}"


class _Fixed:
    """A payload of fixed layout: packs its fields, in order, by ``layout``."""

    __slots__ = ()
    layout: ClassVar[struct.Struct]

    @classmethod
    def unpack(cls, payload: bytes) -> Self:
        """Read a payload.

        Raises:
            ProtocolError: ``payload`` has another length than the layout.
        """
        if len(payload) != cls.layout.size:
            raise ProtocolError(f"{cls.__name__} has {len(payload)} bytes, expected {cls.layout.size}")
        return cls(*cls.layout.unpack(payload))

    def pack(self) -> bytes:
        """Return the payload's bytes."""
        return self.layout.pack(*astuple(self))  # type: ignore[call-overload]  # every subclass is a dataclass


@dataclass(frozen=True, slots=True)
class U64(_Fixed):
    """A single number."""

    layout: ClassVar[struct.Struct] = struct.Struct("=Q")
    value: int


@dataclass(frozen=True, slots=True)
class VringState(_Fixed):
    """A ring's index and a number whose meaning is the request's (vhost-user.rst, "A vring state")."""

    layout: ClassVar[struct.Struct] = struct.Struct("=II")
    index: int
    num: int


@dataclass(frozen=True, slots=True)
class VringAddress(_Fixed):
    """Where a ring's parts are, as front-end user addresses; the log address is the guest's."""

    layout: ClassVar[struct.Struct] = struct.Struct("=IIQQQQ")
    index: int
    flags: int
    descriptor: int
    used: int
    available: int
    log: int


@dataclass(frozen=True, slots=True)
class RegionDescription(_Fixed):
    """One region of guest memory; its file descriptor comes beside the message."""

    layout: ClassVar[struct.Struct] = struct.Struct("=QQQQ")
    guest_address: int
    size: int
    user_address: int
    offset: int


_SINGLE_REGION_PADDING = struct.Struct("=Q")
_TABLE_HEADER = struct.Struct("=II")
_CONFIG_HEADER = struct.Struct("=III")
SINGLE_REGION_SIZE = _SINGLE_REGION_PADDING.size + RegionDescription.layout.size


def pack_single_region(region: RegionDescription) -> bytes:
    """Return the payload of ADD_MEM_REG and REM_MEM_REG."""
    return _SINGLE_REGION_PADDING.pack(0) + region.pack()


def unpack_single_region(payload: bytes) -> RegionDescription:
    """Read the payload of ADD_MEM_REG and REM_MEM_REG."""
    return RegionDescription.unpack(payload[_SINGLE_REGION_PADDING.size :])


def pack_regions(regions: tuple[RegionDescription, ...]) -> bytes:
    """Return the payload of SET_MEM_TABLE."""
    return _TABLE_HEADER.pack(len(regions), 0) + b"".join(region.pack() for region in regions)


def unpack_regions(payload: bytes) -> tuple[RegionDescription, ...]:
    """Read the payload of SET_MEM_TABLE.

    Bytes past the announced regions are let through: User-Mode Linux always sends room for two.

    Raises:
        ProtocolError: the payload is shorter than the number of regions it announces takes.
    """
    if len(payload) < _TABLE_HEADER.size:
        raise ProtocolError(f"the memory table has {len(payload)} bytes, expected {_TABLE_HEADER.size} or more")
    count, _padding = _TABLE_HEADER.unpack_from(payload)
    size = RegionDescription.layout.size
    end = _TABLE_HEADER.size + count * size
    if len(payload) < end:
        raise ProtocolError(f"the memory table announces {count} regions in {len(payload)} bytes, expected {end}")
    return tuple(
        RegionDescription.unpack(payload[start : start + size]) for start in range(_TABLE_HEADER.size, end, size)
    )


@dataclass(frozen=True, slots=True)
class ConfigSpace:
    """A piece of the configuration space (vhost-user.rst, "Virtio device config space")."""

    offset: int
    data: bytes
    flags: int = 0

    def pack(self) -> bytes:
        """Return the payload of GET_CONFIG and SET_CONFIG."""
        return _CONFIG_HEADER.pack(self.offset, len(self.data), self.flags) + self.data

    @classmethod
    def unpack(cls, payload: bytes) -> Self:
        """Read the payload of GET_CONFIG and SET_CONFIG.

        Raises:
            ProtocolError: the payload is not as long as the size it announces.
        """
        if len(payload) < _CONFIG_HEADER.size:
            raise ProtocolError(
                f"the config payload has {len(payload)} bytes, expected at least {_CONFIG_HEADER.size}"
            )
        offset, size, flags = _CONFIG_HEADER.unpack_from(payload)
        data = payload[_CONFIG_HEADER.size :]
        if len(data) != size:
            raise ProtocolError(f"the config payload announces {size} bytes and holds {len(data)}")
        return cls(offset, data, flags)
