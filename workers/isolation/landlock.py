"""Landlock (landlock(7)): nothing that it can take is left. It needs no privilege, but no_new_privs."""

import ctypes
import errno
import os
import struct

from mpnet.workers.isolation.libc import system_call

_CREATE_RULESET, _RESTRICT_SELF = 444, 446  # the same numbers on every architecture
_VERSION = 1

_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""How many rights to files there are, each a bit from the lowest, from which version of the interface on."""
_NETWORK_RIGHTS, _NETWORK_SINCE = 0b11, 4
"""To bind and to connect TCP sockets."""
_SCOPES, _SCOPES_SINCE = 0b11, 6
"""Abstract Unix sockets of others, and signals to others."""


def version() -> int:
    """Of the kernel's interface.

    Raises:
        OSError: the kernel has no Landlock, or it is switched off.
    """
    return system_call(_CREATE_RULESET, None, 0, _VERSION)


def restrict() -> str:
    """Deny everything.

    Raises:
        OSError: the kernel has no Landlock, or it is switched off.
    """
    try:
        known = version()
    except OSError as error:
        if error.errno in {errno.ENOSYS, errno.EOPNOTSUPP}:
            raise OSError(error.errno, "this kernel has no Landlock (Linux 5.13, 'landlock' in lsm=)") from None
        raise
    attribute = rules(known)
    ruleset = system_call(
        _CREATE_RULESET, ctypes.create_string_buffer(attribute, len(attribute)), len(attribute), 0
    )
    try:
        system_call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return f"nothing, by version {known}"


def rules(known: int) -> bytes:
    """The struct landlock_ruleset_attr that handles all a version can: what no rule gives is denied."""
    files = (1 << max(rights for since, rights in _FILE_RIGHTS.items() if since <= known)) - 1
    words = [files]
    if known >= _NETWORK_SINCE:
        words.append(_NETWORK_RIGHTS)
    if known >= _SCOPES_SINCE:
        words.append(_SCOPES)
    return struct.pack(f"={len(words)}Q", *words)
