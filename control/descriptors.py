"""The file descriptors that front-ends pass: which kinds are taken, and how the others are got rid of.

Whoever passes a descriptor chooses what becomes of each call on it. ``close`` waits for the unsent data of a
socket with SO_LINGER, and for the messages queued in it, whose own descriptors it closes; ``fstat`` and ``close``
of a file of FUSE wait for its server. So a descriptor is looked at by the name that the kernel gives it, which
waits for nobody, and for all else than eventfds and pipes in a thread that only its own front-end waits for.
"""

import asyncio
import ctypes
import enum
import fcntl
import os
import socket
import stat
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from mpnet.control.aside import aside
from mpnet.vhost_user.messages import Message, Request


class Kind(enum.Enum):
    """What a descriptor is of; the value says it in words."""

    EVENTFD = "an eventfd"
    PIPE = "a pipe"
    UNIX = "a Unix socket"
    SOCKET = "another socket"
    MEMORY = "a file of shared memory (memfd, /dev/shm or hugetlbfs)"
    OTHER = "something else"


_WRITTEN = (Request.SET_VRING_CALL, Request.SET_VRING_ERR, Request.SET_BACKEND_REQ_FD)
_MEMORY = (Kind.MEMORY,)
# A kick is not read but watched for writes, which a pipe would soon have no room for.
EXPECTED: Mapping[int, tuple[Kind, ...]] = MappingProxyType(
    {
        Request.SET_MEM_TABLE: _MEMORY,
        Request.ADD_MEM_REG: _MEMORY,
        Request.REM_MEM_REG: _MEMORY,
        Request.SET_VRING_KICK: (Kind.EVENTFD,),
        Request.SET_VRING_CALL: (Kind.EVENTFD, Kind.PIPE, Kind.UNIX),
        Request.SET_VRING_ERR: (Kind.EVENTFD, Kind.PIPE, Kind.UNIX),
        Request.SET_BACKEND_REQ_FD: (Kind.UNIX, Kind.PIPE),
    }
)
"""Kinds of descriptors by the request that brings them; User-Mode Linux calls by pipes and Unix sockets."""

MOST_CLOSING = 32
"""Connections of one device whose close waits, before it takes no more."""

_RAMFS = 0x858458F6
_TMPFS = 0x01021994
_HUGETLBFS = 0x958458F6
_MEMORY_FILE_SYSTEMS = (_TMPFS, _HUGETLBFS, _RAMFS)
_STATFS_BYTES = 256
"""More than ``struct statfs`` has, which begins with the type, a long (statfs(2))."""
_libc = ctypes.CDLL(None, use_errno=True)


async def admit(message: Message, enough: asyncio.Event) -> tuple[Message, str]:
    """Return a message with those of its descriptors that may be kept, and what is wrong with the others.

    Those that nobody expects are closed without a word, as ever. Those that are written to are made not to block:
    User-Mode Linux passes pipes that do.

    Args:
        message: as it came.
        enough: set when the session is over: nothing is waited for then.
    """
    expected = EXPECTED.get(message.request, ())
    problem = ""
    kept: list[int] = []
    foreign: list[int] = []
    for fd in message.fds:
        kind = await _kind_of(fd, enough)
        if kind in expected or (not expected and kind not in (Kind.UNIX, Kind.SOCKET, Kind.OTHER)):
            kept.append(fd)
            continue
        if expected:
            problem = f"a descriptor of {_name(fd)} came, expected {' or '.join(each.value for each in expected)}"
        foreign.append(fd)
    if message.request in _WRITTEN:
        for fd in kept:
            _make_nonblocking(fd)
    await close_foreign(foreign, enough)
    return replace(message, fds=tuple(kept)), problem


async def close_foreign(fds: Iterable[int], enough: asyncio.Event) -> None:
    """Close descriptors of any kind; only the caller waits, and only until ``enough`` is set."""
    foreign = tuple(fds)
    if foreign:
        await aside(lambda: _close_all(foreign), enough)


def close_aside(fds: Iterable[int]) -> None:
    """Close descriptors of any kind in a thread that nobody waits for: of whoever comes to his end by that."""
    foreign = tuple(fds)
    if foreign:
        threading.Thread(target=_close_all, args=(foreign,), daemon=True).start()


async def close_admitted(fds: Iterable[int], enough: asyncio.Event) -> None:
    """Close descriptors that have been admitted: a socket as a foreign one, all others at once."""
    admitted = tuple(fds)
    sockets = tuple(fd for fd in admitted if _link(fd).startswith("socket:["))
    _close_all(fd for fd in admitted if fd not in sockets)
    await close_foreign(sockets, enough)


class Closer:
    """Closes connections that nobody has read: descriptors may be queued in them. Nobody waits for that.

    Each has a thread, which waits for as long as whoever queued them likes: so there is a number of them with
    which whoever makes more waits for ``room``, or the process would have no thread left for anybody.
    """

    def __init__(self) -> None:
        self._closing = 0
        self._room = asyncio.Event()
        self._room.set()

    @property
    def full(self) -> bool:
        """Whether ``room`` would wait."""
        return not self._room.is_set()

    async def room(self) -> None:
        """Wait until fewer than ``MOST_CLOSING`` are being closed."""
        await self._room.wait()

    def close(self, sock: socket.socket) -> None:
        """Close a connection soon."""
        loop = asyncio.get_running_loop()

        def work() -> None:
            with suppress(OSError):
                sock.close()
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(self._count, -1)

        threading.Thread(target=work, daemon=True).start()
        self._count(1)

    def _count(self, more: int) -> None:
        self._closing += more
        if self._closing < MOST_CLOSING:
            self._room.set()
        else:
            self._room.clear()


async def _kind_of(fd: int, enough: asyncio.Event) -> Kind:
    link = _link(fd)
    if link == "anon_inode:[eventfd]":
        return Kind.EVENTFD
    # No file is called so: paths begin with a slash or, of another mount namespace, with a bracket.
    if link.startswith("pipe:["):
        return Kind.PIPE
    if link.startswith("socket:["):
        return Kind.UNIX if _domain(fd) == socket.AF_UNIX else Kind.SOCKET
    in_memory = await aside(lambda: _is_memory(fd), enough)
    return Kind.MEMORY if in_memory else Kind.OTHER


def _domain(fd: int) -> int:
    """A socket's address family; the caller keeps the descriptor."""
    borrowed = socket.socket(fileno=fd)
    try:
        return int(borrowed.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN))
    finally:
        borrowed.detach()


def _is_memory(fd: int) -> bool:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return False
    told = ctypes.create_string_buffer(_STATFS_BYTES)
    if _libc.fstatfs(fd, told) < 0:
        return False
    return ctypes.c_ulong.from_buffer(told).value & 0xFFFFFFFF in _MEMORY_FILE_SYSTEMS


def _link(fd: int) -> str:
    return str(Path(f"/proc/self/fd/{fd}").readlink())


def _name(fd: int) -> str:
    """What the kernel calls it, for a person: a path, or a kind in brackets."""
    return ascii(_link(fd))


def _make_nonblocking(fd: int) -> None:
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if not flags & os.O_NONBLOCK:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_NONBLOCK)


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
