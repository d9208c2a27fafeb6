"""Who is at the other end of a Unix socket."""

import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mpnet.foreign import readable

_UCRED = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Peer:
    """A process, by the kernel's word (SO_PEERCRED).

    Attributes:
        pid: its id when it connected; 0 in another process namespace.
        uid: its user.
        name: its command's name; empty where that cannot be seen.
    """

    pid: int
    uid: int
    name: str

    @classmethod
    def of(cls, sock: socket.socket) -> Self:
        """Tell who is at the other end of ``sock``."""
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, _ = _UCRED.unpack(credentials)
        try:
            name = readable(Path(f"/proc/{pid}/comm").read_bytes().rstrip(b"\n"))
        except OSError:
            name = ""
        return cls(pid, uid, name)
