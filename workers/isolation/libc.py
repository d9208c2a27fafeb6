"""Calls that Python has no function for, of the C library or of the kernel itself."""

import ctypes
import os
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def call(name: str, *arguments: Any) -> int:
    """Call a function of the C library: integers are C's ``long``, bytes its strings, None a null pointer.

    Raises:
        OSError: it gave a negative result.
    """
    result = int(getattr(_libc, name)(*map(_argument, arguments)))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def system_call(number: int, *arguments: Any) -> int:
    """Make a system call by its number; otherwise as ``call``."""
    return call("syscall", number, *arguments)


def prctl(option: int, value: int = 0, third: int = 0) -> int:
    """prctl(2)."""
    return call("prctl", option, value, third, 0, 0)


def _argument(value: Any) -> Any:
    return ctypes.c_long(value) if isinstance(value, int) else value
