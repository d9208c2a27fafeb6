"""Who is at the other end of a Unix socket."""

import pwd
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mpnet.errors import ConfigError
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


def uids(users: Iterable[str]) -> frozenset[int]:
    """Look users up, each a name or a number.

    Raises:
        ConfigError: there is no such user.
    """
    return frozenset(_uid(user) for user in users)


def _uid(user: str) -> int:
    if user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ConfigError(f"there is no user {user!r}", "name users of this host, or their numbers") from None
