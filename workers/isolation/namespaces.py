"""Namespaces (namespaces(7)) of a worker's own, with nothing in them. What it has open goes on working."""

import errno
import os

from mpnet.workers.isolation import capabilities
from mpnet.workers.isolation.libc import call

_NEWIPC, _NEWUSER, _NEWNET = 0x08000000, 0x10000000, 0x40000000

_REASONS = {
    errno.EPERM: "it takes CAP_SYS_ADMIN, or a user namespace, which is forbidden here",
    errno.ENOSPC: "namespaces are switched off here: sysctl user.max_*_namespaces",
    errno.EINVAL: "this kernel has none",
}


def leave(namespace: int) -> None:
    """Leave the namespace of a kind (CLONE_NEW*) for a new one.

    Raises:
        OSError: it is forbidden here, with a reason that says more than the kernel's.
    """
    try:
        call("unshare", namespace)
    except OSError as error:
        number = error.errno or 0
        raise OSError(number, _REASONS.get(number, os.strerror(number))) from None


def user() -> str:
    """Enter a user namespace, if that is what it takes to leave the others; in it nobody is anybody.

    Raises:
        OSError: user namespaces are switched off, or forbidden here.
    """
    if capabilities.has(capabilities.SYS_ADMIN):
        return "not needed: the others can be left without"
    leave(_NEWUSER)
    return "its own, in which no user exists"


def network() -> str:
    """Leave the network: in the new one there is no interface that is up.

    Raises:
        OSError: it takes CAP_SYS_ADMIN, or a user namespace.
    """
    leave(_NEWNET)
    return "its own, with no interface up"


def ipc() -> str:
    """Leave System V IPC and POSIX message queues.

    Raises:
        OSError: it takes CAP_SYS_ADMIN, or a user namespace.
    """
    leave(_NEWIPC)
    return "its own, with nothing in it"
