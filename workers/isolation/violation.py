"""What becomes of a worker that makes a system call which is not declared."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from mpnet.workers.signals import handle

_CALL_OFFSET = 24
"""Of si_syscall in siginfo_t (sigaction(2)), on 64-bit machines."""


def on_violation(tell: Callable[[int, str], None]) -> Any:
    """Have ``tell`` called with the number of a call that the filter refused, and where Python was; then end.

    The process ends by SIGSYS, as its parent sees, though it was caught: no process survives a second refused
    call while the first one's handler runs, where the signal is blocked.

    Returns:
        What is to be kept as long as the filter is in place.
    """

    def refused(_signal: int, information: int, _context: int) -> None:
        number = ctypes.c_int32.from_address(information + _CALL_OFFSET).value
        where = _line(sys._getframe().f_back)  # noqa: SLF001 - no other way leads to what was interrupted
        try:
            tell(number, where)
        finally:
            os.getppid()

    return handle(signal.SIGSYS, refused)


def _line(frame: FrameType | None) -> str:
    """The innermost line of mpnet's own."""
    while frame and not frame.f_globals["__name__"].startswith("mpnet."):
        frame = frame.f_back
    return f"{frame.f_globals['__name__']}:{frame.f_lineno}" if frame else "a line that is not mpnet's"
