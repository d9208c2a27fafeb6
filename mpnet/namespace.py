"""A network namespace of one's own: TAPs and addresses in it touch nothing outside; it ends with its processes.

An ordinary user gets a user namespace around it, as whose root they may make interfaces.
"""

import ctypes
import os
from pathlib import Path

from pyroute2 import IPRoute

from mpnet.errors import MpnetError

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

_LOOPBACK = 1
_libc = ctypes.CDLL(None, use_errno=True)


def enter() -> None:
    """Move this thread, and the threads and processes it starts from now on, into a fresh namespace with lo up.

    Without root this takes a process of one thread, those of libraries (numpy's) counted. What needs the outside
    network, such as packages, is to be fetched before.

    Raises:
        MpnetError: this user may not; with the remedy.
    """
    try:
        if os.geteuid() == 0:
            _call("unshare", CLONE_NEWNET)
        else:
            _enter_user_namespace()
    except OSError as error:
        raise MpnetError(
            f"no network namespace of one's own can be made here ({error})",
            "run as root (in a container: with --privileged), or as root: "
            "sysctl -w user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1 "
            "kernel.apparmor_restrict_unprivileged_userns=0 (those of them that there are)",
        ) from error
    with IPRoute() as ip:
        ip.link("set", index=_LOOPBACK, state="up")


def join(namespace: int) -> None:
    """Move this thread into the network namespace of a file descriptor, as of /proc/thread-self/ns/net.

    Raises:
        OSError: it is none, or this user may not.
    """
    _call("setns", namespace, CLONE_NEWNET)


def _enter_user_namespace() -> None:
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, f"{threads} threads, but a user namespace is entered by a process of one"
    uid, gid = os.getuid(), os.getgid()
    _call("unshare", CLONE_NEWUSER | CLONE_NEWNET)
    # The kernel takes a group map from an ordinary user only once setgroups is given up.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def _call(name: str, *arguments: int) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
