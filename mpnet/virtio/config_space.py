"""The network device's configuration space (VIRTIO 1.3, 5.1.4), little-endian."""

import enum
import struct
from dataclasses import dataclass
from typing import Self

from mpnet.errors import ConfigError

_LAYOUT = struct.Struct("<6sHHHIBBHI")

CONFIG_SIZE = _LAYOUT.size
"""Bytes, from mac to supported_hash_types."""

MAC_SIZE = 6
SPEED_UNKNOWN = 0xFFFFFFFF
DUPLEX_HALF = 0
DUPLEX_FULL = 1
DUPLEX_UNKNOWN = 0xFF


class LinkStatus(enum.IntFlag):
    """Bits of ``NetConfig.status`` (VIRTIO 5.1.4)."""

    LINK_UP = 1
    ANNOUNCE = 2


@dataclass(frozen=True, slots=True)
class NetConfig:
    """What a driver reads of the device; each field means something only with its feature negotiated.

    Attributes:
        mac: 6 bytes (MAC).
        status: of ``LinkStatus`` (STATUS); without the feature a driver takes the link for up.
        max_virtqueue_pairs: 1 to 32768 (MQ or RSS).
        mtu: bytes (MTU).
        speed: Mbit/s, 0 to 2**31 - 1, or SPEED_UNKNOWN (SPEED_DUPLEX).
        duplex: DUPLEX_HALF, DUPLEX_FULL or DUPLEX_UNKNOWN (SPEED_DUPLEX).
        rss_max_key_size: bytes, at least 40 (RSS or HASH_REPORT).
        rss_max_indirection_table_length: entries, at least 128 (RSS).
        supported_hash_types: bits of VIRTIO 5.1.6.4.3.1 (RSS or HASH_REPORT).
    """

    mac: bytes
    status: LinkStatus = LinkStatus.LINK_UP
    max_virtqueue_pairs: int = 1
    mtu: int = 1500
    speed: int = SPEED_UNKNOWN
    duplex: int = DUPLEX_UNKNOWN
    rss_max_key_size: int = 0
    rss_max_indirection_table_length: int = 0
    supported_hash_types: int = 0

    def pack(self) -> bytes:
        """Return the space as ``CONFIG_SIZE`` bytes.

        Raises:
            ConfigError: ``mac`` has not 6 bytes, or a number does not fit its field.
        """
        if len(self.mac) != MAC_SIZE:
            raise ConfigError(f"the MAC address has {len(self.mac)} bytes, expected {MAC_SIZE}")
        try:
            return _LAYOUT.pack(
                self.mac,
                self.status,
                self.max_virtqueue_pairs,
                self.mtu,
                self.speed,
                self.duplex,
                self.rss_max_key_size,
                self.rss_max_indirection_table_length,
                self.supported_hash_types,
            )
        except struct.error as error:
            raise ConfigError(f"{self} does not fit the configuration space: {error}") from error

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Read the space; bytes past it are ignored.

        Raises:
            ConfigError: ``data`` is shorter than ``CONFIG_SIZE``.
        """
        if len(data) < CONFIG_SIZE:
            raise ConfigError(f"the configuration space has {len(data)} bytes, expected {CONFIG_SIZE}")
        mac, status, *rest = _LAYOUT.unpack_from(data)
        return cls(mac, LinkStatus(status), *rest)


def parse_mac(text: str) -> bytes:
    """Read a MAC address such as ``52:54:00:12:34:56``.

    Raises:
        ConfigError: it is not six pairs of hexadecimal digits between colons, or a group address.
    """
    parts = text.split(":")
    hexadecimal = "0123456789abcdefABCDEF"
    if len(parts) != MAC_SIZE or any(len(part) != 2 or set(part) - set(hexadecimal) for part in parts):
        raise ConfigError(f"MAC address {text!r} is not six hexadecimal bytes", "write it as 52:54:00:12:34:56")
    mac = bytes.fromhex("".join(parts))
    if mac[0] & 1:
        raise ConfigError(
            f"MAC address {text!r} is a group address, which no interface can have",
            "make the first byte even, as in 52:54:00:12:34:56",
        )
    return mac


def format_mac(mac: bytes) -> str:
    """Write a MAC address as ``52:54:00:12:34:56``."""
    return mac.hex(":")
