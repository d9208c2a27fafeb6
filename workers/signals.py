"""Handlers of signals that an instruction raises in this very thread: SIGBUS, and SIGSYS.

``signal.signal`` would not do: it runs handlers between bytecodes, and a faulting instruction would be repeated
for ever. The instruction may be in compiled code, which does not hold the interpreter's lock, or in a call of
``ctypes`` that does. ctypes takes the lock for a callback in either state, so a handler may be Python.
"""

import ctypes
from collections.abc import Callable
from typing import Any

_SA_SIGINFO = 4
_SA_NODEFER = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _Sigaction(ctypes.Structure):
    # As glibc declares it on 64-bit Linux.
    _fields_ = [
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]


def handle(number: int, act: Callable[[int, int, int], None], *, nested: bool = False) -> Any:
    """Have ``act`` called with signal, siginfo_t and context, the latter two by address.

    Args:
        number: the signal.
        act: the handler.
        nested: whether the signal may come again while it is handled.

    Returns:
        What is to be kept as long as the handler is in place.
    """
    handler = _Handler(act)
    flags = _SA_SIGINFO | (_SA_NODEFER if nested else 0)
    action = _Sigaction(ctypes.cast(handler, ctypes.c_void_p), flags=flags)
    _libc.sigaction(number, ctypes.byref(action), None)
    return handler


def handle_by_default(number: int) -> None:
    """Let the signal end the process, as it does where nobody handles it."""
    default = _Sigaction()
    _libc.sigaction(number, ctypes.byref(default), None)
