"""System calls of the data path; each returns its result, or ``-errno``.

Compiled, they resolve by name in the C library, which survives the on-disk cache (an address would not).
Every pointer argument is an integer address; the caller answers for the memory behind it.
"""

import ctypes
from collections.abc import Callable
from typing import Any

from mpnet.jit.compile import JIT, compiled
from mpnet.jit.memory import load_i64, load_u32
from mpnet.jit.system_calls import Call

if JIT:
    from mpnet.jit.intrinsics import external

_C_TYPES: dict[str, Any] = {"i": ctypes.c_int, "l": ctypes.c_long}


def _external(name: str, result: str, arguments: str) -> Callable[..., int]:
    """The C library's function: ``i`` is an int, ``l`` a long or a pointer."""
    if JIT:
        return external(name, result, arguments)
    foreign: Any = getattr(ctypes.CDLL(None, use_errno=True), name)
    foreign.restype = _C_TYPES[result]
    foreign.argtypes = [_C_TYPES[code] for code in arguments]
    return lambda *values: int(foreign(*map(int, values)))


_errno_location = _external("__errno_location", "l", "")
_readv = _external("readv", "l", "ili")
_writev = _external("writev", "l", "ili")
_read = _external("read", "l", "ill")
_write = _external("write", "l", "ill")
_epoll_wait = _external("epoll_wait", "i", "ilii")
_epoll_ctl = _external("epoll_ctl", "i", "iiil")
_clock_gettime = _external("clock_gettime", "i", "il")
_sendmmsg = _external("sendmmsg", "i", "ilii")
_sched_yield = _external("sched_yield", "i", "")
_syscall = _external("syscall", "l", "lllllll")
_IO_URING_ENTER = 426  # the same number on every architecture

SYSTEM_CALLS = (
    Call("readv"),
    Call("writev"),
    Call("write"),
    Call("read"),
    Call("io_uring_enter"),
    Call("epoll_wait"),
    Call("epoll_pwait", seldom="what epoll_wait is on machines that have no call of that name"),
    Call("sched_yield"),
    Call("epoll_ctl"),
    Call(
        "clock_gettime", seldom="where the clock cannot be read without the kernel, as on some virtual machines"
    ),
)
"""Those of these that a worker makes; ``sendmmsg`` is for generators of packets."""

if JIT:

    @compiled
    def _result(value: int) -> int:
        return value if value >= 0 else -load_u32(_errno_location())
else:

    def _result(value: int) -> int:
        return value if value >= 0 else -ctypes.get_errno()


@compiled
def readv(fd: int, iovecs: int, count: int) -> int:
    """readv(2) into ``count`` iovecs (16 bytes each) at address ``iovecs``."""
    return _result(_readv(fd, iovecs, count))


@compiled
def writev(fd: int, iovecs: int, count: int) -> int:
    """writev(2) from ``count`` iovecs (16 bytes each) at address ``iovecs``."""
    return _result(_writev(fd, iovecs, count))


@compiled
def read(fd: int, address: int, size: int) -> int:
    """read(2) of ``size`` bytes."""
    return _result(_read(fd, address, size))


@compiled
def write(fd: int, address: int, size: int) -> int:
    """write(2) of ``size`` bytes."""
    return _result(_write(fd, address, size))


@compiled
def epoll_wait(epoll_fd: int, events: int, most: int, timeout_ms: int) -> int:
    """epoll_wait(2); ``events`` has room for ``most`` entries of ``EPOLL_EVENT_BYTES``."""
    return _result(_epoll_wait(epoll_fd, events, most, timeout_ms))


@compiled
def epoll_ctl(epoll_fd: int, operation: int, fd: int, event: int) -> int:
    """epoll_ctl(2); ``event`` is the address of ``EPOLL_EVENT_BYTES``."""
    return _result(_epoll_ctl(epoll_fd, operation, fd, event))


@compiled
def sched_yield() -> int:
    """sched_yield(2): let a thread that waits for this processor have it; returns at once where none does."""
    return _result(_sched_yield())


@compiled
def clock_ns(clock: int, timespec: int) -> int:
    """clock_gettime(2) in nanoseconds; ``timespec`` is the address of 16 bytes of scratch."""
    _clock_gettime(clock, timespec)
    return load_i64(timespec) * 1_000_000_000 + load_i64(timespec + 8)


@compiled
def sendmmsg(fd: int, messages: int, count: int) -> int:
    """sendmmsg(2) of ``count`` struct mmsghdr (64 bytes each) at address ``messages``; how many were sent."""
    return _result(_sendmmsg(fd, messages, count, 0))


@compiled
def io_uring_enter(fd: int, submit: int, wait: int, flags: int) -> int:
    """io_uring_enter(2): hand over ``submit`` operations, wait until ``wait`` have ended; how many were taken."""
    return _result(_syscall(_IO_URING_ENTER, fd, submit, wait, flags, 0, 0))
