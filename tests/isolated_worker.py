"""A real worker, isolated, which leaves a declared call out or makes an undeclared one as the device's name says.

``test-SERIAL.omit-N`` lets the filter lack the N-th declared call; ``.do-ACTION``, alone or behind it, does what
``ACTIONS`` has under that name when the worker is asked to shut down.
"""

import ctypes
import mmap
import os
import socket
from collections.abc import Callable
from typing import Any

from mpnet.rpc.worker import Shutdown
from mpnet.workers import main
from mpnet.workers.isolation import declared
from mpnet.workers.worker import Worker

_libc = ctypes.CDLL(None)
_EXECUTABLE = mmap.PROT_READ | mmap.PROT_EXEC


def _mmap_executable() -> None:
    mmap.mmap(-1, mmap.PAGESIZE, prot=_EXECUTABLE)


def _grow() -> None:
    """Want memory as Python does, for many objects and for one that grows."""
    many = [bytes(60_000) for _ in range(1000)]
    one = bytearray()
    for each in many:
        one += each


def _fail() -> None:
    raise LookupError("the worker's own fault")


ACTIONS: dict[str, Callable[[], Any]] = {
    "openat": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "socket": socket.socket,
    "execve": lambda: os.execv("/bin/true", ["true"]),  # noqa: S606 - is refused
    "clone": os.fork,
    "kill": lambda: os.kill(1, 0),
    "ptrace": lambda: _libc.ptrace(0, 0, 0, 0),
    "mmap": _mmap_executable,
    "mprotect": lambda: _libc.mprotect(ctypes.c_void_p(0), mmap.PAGESIZE, _EXECUTABLE),
    "ioctl": lambda: os.isatty(2),
    "prctl": lambda: _libc.prctl(4, 1, 0, 0, 0),
    "io_uring_setup": lambda: _libc.syscall(425, 1, 0),
    "grow": _grow,
    "fail": _fail,
}


def run(device: str, slot: int, sock: socket.socket, segment_fd: int) -> None:
    plan = dict(part.split("-") for part in device.split(".")[1:])
    if "omit" in plan:
        calls = declared.calls()
        del calls[int(plan["omit"])]
        declared.calls = lambda: calls
    if "do" in plan:

        def act(worker: Worker, _message: Shutdown, _fds: object) -> int:
            ACTIONS[plan["do"]]()
            worker.stopping = True
            return 0

        Worker._shutdown = act  # type: ignore[method-assign]
    main.run(device, slot, sock, segment_fd)
