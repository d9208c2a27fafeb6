"""Writing pcapng (draft-ietf-opsawg-pcapng), as far as a live capture needs it.

By hand, because it is four kinds of block, each packed in one go, and because the libraries that write it have
had no release since 2022.
"""

import enum
import os
import platform
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

LINKTYPE_ETHERNET = 1
_SECTION_HEADER = 0x0A0D0D0A
_INTERFACE_DESCRIPTION = 1
_INTERFACE_STATISTICS = 5
_ENHANCED_PACKET = 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_UNKNOWN_LENGTH = -1
_PENDING_BYTES = 256 * 1024
"""About so much is written at a time: a system call for each packet would cost more than the rest."""
_NANOSECONDS = bytes([9])  # 10 to the power of -9

_OPT_COMMENT = 1
_SHB_OS, _SHB_USERAPPL = 3, 4
_IF_NAME, _IF_DESCRIPTION, _IF_TSRESOL = 2, 3, 9
_EPB_FLAGS = 2
_ISB_STARTTIME, _ISB_ENDTIME, _ISB_IFRECV, _ISB_IFDROP = 2, 3, 4, 5

_BLOCK = struct.Struct("<II")
_OPTION = struct.Struct("<HH")
_PACKET = struct.Struct("<IIIII")
_FLAGS = struct.Struct("<HHI")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_PADDING = (b"", bytes(3), bytes(2), bytes(1))
_END_OF_OPTIONS = bytes(4)


class Direction(enum.IntEnum):
    """Which way a packet went, as the flags of its block say it."""

    INBOUND = 1
    OUTBOUND = 2


@dataclass(frozen=True, slots=True)
class Interface:
    """What packets were captured on.

    Attributes:
        name: for programs.
        description: for people.
        snaplen: bytes of a packet that are kept at most.
    """

    name: str
    description: str
    snaplen: int


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet as a file has it.

    Attributes:
        interface: its number.
        time_ns: nanoseconds since 1970.
        direction: which way it went.
        data: its bytes, as far as they were kept.
        length: of the whole packet.
        comment: shown beside it; empty for none.
    """

    interface: int
    time_ns: int
    direction: Direction
    data: bytes
    length: int
    comment: str = ""


class PcapngWriter:
    """Writes one section; what it is given stays open.

    A file that takes no more, as on a full disk, ends behind the last block that is whole: it can be read.

    Args:
        fd: a file or a pipe.
        program: what wrote it, with its version.
        interfaces: all of them; packets name them by their place in here.

    Attributes:
        packets: that have been written, whole.
    """

    def __init__(self, fd: int, program: str, interfaces: Sequence[Interface]) -> None:
        self.packets = 0
        self._fd = fd
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        system = _text(_SHB_OS, f"{platform.system()} {os.uname().release}")
        body = struct.pack("<IHHq", _BYTE_ORDER_MAGIC, 1, 0, _UNKNOWN_LENGTH)
        self._write(_SECTION_HEADER, body + system + _text(_SHB_USERAPPL, program) + _END_OF_OPTIONS)
        for interface in interfaces:
            body = struct.pack("<HHI", LINKTYPE_ETHERNET, 0, interface.snaplen)
            body += _text(_IF_NAME, interface.name) + _text(_IF_DESCRIPTION, interface.description)
            self._write(_INTERFACE_DESCRIPTION, body + _option(_IF_TSRESOL, _NANOSECONDS) + _END_OF_OPTIONS)

    def packet(self, packet: Packet) -> None:
        """Write one packet, with those that follow or at the next ``flush``; raises what that raises."""
        time, size = packet.time_ns, len(packet.data)
        head = _PACKET.pack(packet.interface, time >> 32, time & 0xFFFFFFFF, size, packet.length)
        options = _FLAGS.pack(_EPB_FLAGS, 4, packet.direction)
        if packet.comment:
            options += _text(_OPT_COMMENT, packet.comment)
        self._write(_ENHANCED_PACKET, head + packet.data + _PADDING[size % 4] + options + _END_OF_OPTIONS)

    def statistics(self, interface: int, times_ns: tuple[int, int], received: int, dropped: int) -> None:
        """Write what became of an interface's packets.

        Args:
            interface: its number.
            times_ns: when the capture began and ended.
            received: packets that there were, those that were dropped too.
            dropped: packets for which there was no room.
        """
        start, end = times_ns
        body = _U32.pack(interface) + _timestamp(end)
        body += _option(_ISB_STARTTIME, _timestamp(start)) + _option(_ISB_ENDTIME, _timestamp(end))
        body += _option(_ISB_IFRECV, _U64.pack(received)) + _option(_ISB_IFDROP, _U64.pack(dropped))
        self._write(_INTERFACE_STATISTICS, body + _END_OF_OPTIONS)

    def flush(self) -> None:
        """Hand what was written to whoever reads it.

        Raises:
            OSError: not all of it could be written; the rest is forgotten.
        """
        data, done = memoryview(b"".join(self._pending)), 0
        try:
            while done < len(data):
                done += os.write(self._fd, data[done:])
        finally:
            self._settle(done)

    def _settle(self, done: int) -> None:
        """Count the packets in the first ``done`` pending bytes, and cut a block off that is not whole."""
        ends = list(accumulate(map(len, self._pending)))
        whole = sum(end <= done for end in ends)
        self.packets += sum(_BLOCK.unpack_from(block)[0] == _ENHANCED_PACKET for block in self._pending[:whole])
        self._pending, self._pending_bytes = [], 0
        torn = done - (ends[whole - 1] if whole else 0)
        if torn and stat.S_ISREG(os.fstat(self._fd).st_mode):
            os.ftruncate(self._fd, os.lseek(self._fd, 0, os.SEEK_CUR) - torn)

    def _write(self, kind: int, body: bytes) -> None:
        length = len(body) + 12
        self._pending.append(_BLOCK.pack(kind, length) + body + _U32.pack(length))
        self._pending_bytes += length
        if self._pending_bytes >= _PENDING_BYTES:
            self.flush()


def _timestamp(time_ns: int) -> bytes:
    return _BLOCK.pack(time_ns >> 32, time_ns & 0xFFFFFFFF)


def _option(code: int, value: bytes) -> bytes:
    return _OPTION.pack(code, len(value)) + value + _PADDING[len(value) % 4]


def _text(code: int, text: str) -> bytes:
    return _option(code, text.encode())
