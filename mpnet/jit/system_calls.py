"""System calls by name, as code declares the ones it makes: a worker may make those and no other.

A module that makes system calls in a worker has ``SYSTEM_CALLS`` beside the code, a tuple of ``Call``.
``mpnet.workers.isolation`` makes a seccomp filter of them.
"""

import platform
from typing import NamedTuple


class Check(NamedTuple):
    """What an argument must be: ``argument & mask == value``, in its low 32 bits: it is an int to the kernel.

    Attributes:
        place: which argument, from 0.
        mask: the bits that are looked at.
        value: what these must be.
    """

    place: int
    mask: int
    value: int


def equals(place: int, value: int) -> Check:
    """Argument ``place`` is ``value``."""
    return Check(place, 0xFFFFFFFF, value)


def lacks(place: int, bits: int) -> Check:
    """Argument ``place`` has none of ``bits``."""
    return Check(place, bits, 0)


class Call(NamedTuple):
    """A system call that a worker makes.

    Attributes:
        name: the kernel's.
        check: what an argument must be; None where anything will do. Of several calls of a name one must fit.
        seldom: why it may go unused, where that is so: each other declared call is made by some test.
    """

    name: str
    check: Check | None = None
    seldom: str = ""


_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Column of ``_NUMBERS``, and AUDIT_ARCH_* of linux/audit.h."""
_NONE = -1
_NUMBERS: dict[str, tuple[int, int]] = {
    "read": (0, 63),
    "write": (1, 64),
    "open": (2, _NONE),
    "close": (3, 57),
    "fstat": (5, 80),
    "poll": (7, _NONE),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "ioctl": (16, 29),
    "readv": (19, 65),
    "writev": (20, 66),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "getpid": (39, 172),
    "socket": (41, 198),
    "connect": (42, 203),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "clone": (56, 220),
    "fork": (57, _NONE),
    "execve": (59, 221),
    "kill": (62, 129),
    "fcntl": (72, 25),
    "ptrace": (101, 117),
    "getppid": (110, 173),
    "sigaltstack": (131, 132),
    "prctl": (157, 167),
    "gettid": (186, 178),
    "futex": (202, 98),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "epoll_wait": (232, _NONE),
    "epoll_ctl": (233, 21),
    "tgkill": (234, 131),
    "openat": (257, 56),
    "newfstatat": (262, 79),
    "ppoll": (271, 73),
    "epoll_pwait": (281, 22),
    "getrandom": (318, 278),
    "preadv2": (327, 286),
    "process_vm_readv": (310, 270),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "clone3": (435, 435),
    "openat2": (437, 437),
}
"""Numbers on x86-64 and with the generic table: calls that workers make, and those that somebody who took one
over would wish to make, so that a report can name them."""


def architecture() -> int:
    """AUDIT_ARCH_* of this machine.

    Raises:
        OSError: the numbers of its system calls are not known here.
    """
    return _machine()[1]


def number(name: str) -> int | None:
    """The number of a call on this machine; None where it has none of that name.

    Raises:
        OSError: the numbers of its system calls are not known here.
    """
    value = _NUMBERS[name][_machine()[0]]
    return None if value == _NONE else value


def name_of(call: int) -> str:
    """What to call system call number ``call``: its name where that is known."""
    place = _MACHINES.get(platform.machine(), (0, 0))[0]
    return next((name for name, numbers in _NUMBERS.items() if numbers[place] == call), f"number {call}")


def _machine() -> tuple[int, int]:
    machine = platform.machine()
    if machine not in _MACHINES:
        raise OSError(f"system calls of {machine} are not known, only those of {' and '.join(_MACHINES)}")
    return _MACHINES[machine]
