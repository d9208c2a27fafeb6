"""Capabilities (capabilities(7)) of this process: asked for, kept over a change of user, given up."""

import ctypes
import struct

from mpnet.workers.isolation.libc import call, prctl

SETGID, SETUID, KILL, SYS_ADMIN = 6, 7, 5, 21
"""Numbers of capabilities."""
_SETPCAP = 8
_VERSION_3 = 0x20080522
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_DATA = struct.Struct("=6I")
"""Two struct __user_cap_data_struct, low and high words: effective, permitted, inheritable."""


def has(*capabilities: int) -> bool:
    """Whether all of these are in effect."""
    low, _, _, high, _, _ = _get()
    effective = low | high << 32
    return all(effective >> capability & 1 for capability in capabilities)


def take_effect() -> None:
    """Have what is permitted in effect again: a change of user keeps the one, if told to, and not the other."""
    _, low, _, _, high, _ = _get()
    _set(low, low, 0, high, high, 0)


def give_up() -> str:
    """Give up all, and what programs that this process starts could ever have."""
    bounded = has(_SETPCAP)
    if bounded:
        number = 0
        while _in_bounding_set(number):
            prctl(_PR_CAPBSET_DROP, number)
            number += 1
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _set(0, 0, 0, 0, 0, 0)
    return (
        "none, and none to be had"
        if bounded
        else "none; the bounding set stays, of no use without new privileges"
    )


def _in_bounding_set(number: int) -> bool:
    """Whether a capability of that number exists; one that is dropped already may be dropped again."""
    try:
        prctl(_PR_CAPBSET_READ, number)
    except OSError:
        return False
    return True


def _get() -> tuple[int, ...]:
    data = ctypes.create_string_buffer(_DATA.size)
    call("capget", _header(), data)
    return _DATA.unpack(data.raw)


def _set(*words: int) -> None:
    call("capset", _header(), ctypes.create_string_buffer(_DATA.pack(*words), _DATA.size))


def _header() -> ctypes.Array[ctypes.c_char]:
    """A struct __user_cap_header_struct: the version, and this process."""
    return ctypes.create_string_buffer(struct.pack("=Ii", _VERSION_3, 0), 8)
