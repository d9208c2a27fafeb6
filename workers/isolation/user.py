"""The user that a worker of root's becomes."""

import errno
import os
import pwd
from typing import NamedTuple

from mpnet.workers.isolation import capabilities
from mpnet.workers.isolation.libc import prctl

USER = "mpnet-worker"
"""Whom workers run as where a user of that name exists: packaging/sysusers.d makes it. One that is called
``mpnet-worker-<device>`` is preferred, where an operator wants devices kept apart."""
_NOBODY = 65534
_PR_SET_KEEPCAPS = 8
_NEEDED = (capabilities.SETUID, capabilities.SETGID, capabilities.KILL)
"""Without CAP_KILL control could not end a worker of another user."""


class _Account(NamedTuple):
    uid: int
    gid: int
    name: str


def become_another(device: str) -> str:
    """Leave root, and every supplementary group; capabilities stay, for the stages that follow.

    Raises:
        OSError: the kernel, or this process's user namespace, does not let it.
    """
    if os.geteuid() != 0:
        return f"uid {os.geteuid()}, as it was not started by root"
    if not capabilities.has(*_NEEDED):
        raise OSError(errno.EPERM, "it stays root: control lacks CAP_SETUID, CAP_SETGID or CAP_KILL")
    account = _account(device)
    prctl(_PR_SET_KEEPCAPS, 1)
    try:
        os.setgroups([])
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    except OSError as error:
        reason = f"it stays uid 0: there is no {account.name.partition(',')[0]} in this user namespace"
        raise OSError(error.errno, reason) from None
    capabilities.take_effect()
    return account.name


def _account(device: str) -> _Account:
    # Nobody is shared with whatever else has no user of its own. That matters little: all that users can do to
    # each other, signals and looking into each other's memory, the later stages forbid.
    for name in (f"{USER}-{device}", USER):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return _Account(entry.pw_uid, entry.pw_gid, f"uid {entry.pw_uid}, {name}")
    return _Account(_NOBODY, _NOBODY, f"uid {_NOBODY}, nobody, as there is no user {USER}")
