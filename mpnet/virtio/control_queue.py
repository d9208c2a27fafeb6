"""Commands of the control virtqueue (VIRTIO 1.3, 5.1.6.5) as bytes: a class, a command, its data; an ack back."""

import enum
import struct
from dataclasses import dataclass
from typing import Self

from mpnet.errors import ProtocolError

ACK_OK = 0
ACK_ERR = 1
_U16 = struct.Struct("<H")


class CommandClass(enum.IntEnum):
    """Which part of the device a command is about, without ``VIRTIO_NET_CTRL_``."""

    RX = 0
    MAC = 1
    VLAN = 2
    ANNOUNCE = 3
    MQ = 4


MAC_TABLE_SET = 0
MAC_ADDR_SET = 1
ANNOUNCE_ACK = 0
MQ_VQ_PAIRS_SET = 0


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        group: a ``CommandClass``, or a number without a name.
        number: the command within its class.
        data: what is specific to the command.
    """

    group: int
    number: int
    data: bytes = b""

    def pack(self) -> bytes:
        """Return the device-readable part of the command's chain."""
        return bytes([self.group, self.number]) + self.data

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Read the device-readable part of a chain.

        Raises:
            ProtocolError: it is shorter than the header of 2 bytes.
        """
        if len(data) < 2:
            raise ProtocolError(f"a control command has {len(data)} bytes, expected its header of 2")
        return cls(data[0], data[1], data[2:])


def set_pairs(pairs: int) -> Command:
    """Return the command to use ``pairs`` queue pairs (5.1.6.5.5)."""
    return Command(CommandClass.MQ, MQ_VQ_PAIRS_SET, _U16.pack(pairs))


def read_pairs(command: Command) -> int:
    """Return what ``set_pairs`` asks for.

    Raises:
        ProtocolError: its data is not 2 bytes.
    """
    if len(command.data) != _U16.size:
        raise ProtocolError(f"VQ_PAIRS_SET has {len(command.data)} bytes of data, expected {_U16.size}")
    return int(_U16.unpack(command.data)[0])
