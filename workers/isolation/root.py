"""A mount namespace of a worker's own, whose root is empty and can not be written to."""

import os

from mpnet.workers.isolation.libc import call
from mpnet.workers.isolation.namespaces import leave as leave_namespace

_NEWNS = 0x00020000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 0x4000, 0x40000
_MNT_DETACH = 2
_PLACE = b"/proc"
"""Where the new root is mounted for a moment: a folder that is there wherever Linux is of use."""


def leave() -> str:
    """Have no file at all by any name.

    Raises:
        OSError: it takes CAP_SYS_ADMIN, or a user namespace; or a mount is refused.
    """
    leave_namespace(_NEWNS)
    # Or the machine would lose its mounts with us.
    call("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
    flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    call("mount", b"none", _PLACE, b"tmpfs", flags, b"size=4k,nr_inodes=1,mode=555")
    os.chdir(_PLACE)
    # The old root comes to lie on the new one, and goes.
    call("pivot_root", b".", b".")
    call("umount2", b".", _MNT_DETACH)
    os.chdir("/")
    return "empty"
