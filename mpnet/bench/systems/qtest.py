"""QEMU's qtest protocol: reads and writes of a machine's memory, ports and PCI configuration over a socket.

One line a command, one line an answer, that begins with ``OK`` (QEMU, docs/devel/testing/qtest.rst).
"""

import socket
import time
from typing import Self

from mpnet.errors import MpnetError

_SECONDS = 10.0
_PCI_ADDRESS, _PCI_DATA = 0xCF8, 0xCFC
_ENABLE = 1 << 31
_LETTERS = {1: "b", 2: "w", 4: "l"}


class Qtest:
    """A connection to a machine that listens, or soon will, at ``path``.

    Attributes:
        socket: for whoever writes commands without waiting for each answer.

    Raises:
        MpnetError: nobody listens in time.
    """

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(_SECONDS)
        self._rest = b""
        deadline = time.monotonic() + _SECONDS
        while self.socket.connect_ex(path) != 0:
            if time.monotonic() > deadline:
                self.socket.close()
                raise MpnetError(f"QEMU does not listen at {path} after {_SECONDS:g} s")
            time.sleep(0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, command: str) -> list[str]:
        """Give one command; the words of its answer after OK.

        Raises:
            MpnetError: QEMU refused it, or is gone.
        """
        self.socket.sendall(command.encode() + b"\n")
        while b"\n" not in self._rest:
            data = self.socket.recv(4096)
            if not data:
                raise MpnetError(f"QEMU ended at the qtest command {command!r}")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        words = line.decode().split()
        if words[:1] != ["OK"]:
            raise MpnetError(f"QEMU answered the qtest command {command!r} with {line.decode()!r}")
        return words[1:]

    def read(self, address: int, size: int) -> int:
        """Read 1, 2 or 4 bytes of guest-physical memory."""
        return int(self.ask(f"read{_LETTERS[size]} {address:#x}")[0], 16)

    def write(self, address: int, size: int, value: int) -> None:
        """Write 1, 2 or 4 bytes of guest-physical memory."""
        self.ask(f"write{_LETTERS[size]} {address:#x} {value:#x}")

    def pci_read(self, slot: int, offset: int, size: int) -> int:
        """Read 1, 2 or 4 bytes of the configuration space of a device on bus 0, function 0."""
        self._pci_select(slot, offset)
        return int(self.ask(f"in{_LETTERS[size]} {_PCI_DATA + (offset & 3):#x}")[0], 16)

    def pci_write(self, slot: int, offset: int, size: int, value: int) -> None:
        """Write 1, 2 or 4 bytes of the same."""
        self._pci_select(slot, offset)
        self.ask(f"out{_LETTERS[size]} {_PCI_DATA + (offset & 3):#x} {value:#x}")

    def _pci_select(self, slot: int, offset: int) -> None:
        self.ask(f"outl {_PCI_ADDRESS:#x} {_ENABLE | slot << 11 | offset & 0xFC:#x}")
