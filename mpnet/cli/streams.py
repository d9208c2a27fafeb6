"""Standard input, output and error as they are given: closed, full, or in an encoding that lacks characters."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper

from mpnet.errors import MpnetError

_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})
_STDOUT = 1


@contextmanager
def checked_streams() -> Iterator[None]:
    """Have what is written in the block arrive, or say that it did not.

    Raises:
        MpnetError: standard output is closed, full or broken. A reader that has gone ends the process in silence,
            with status 1.
    """
    _open_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        _give_up_stdout()
        sys.exit(1)
    except OSError as error:
        if error.filename is not None or error.errno not in _UNWRITABLE:
            raise
        _give_up_stdout()
        reason = "it is closed" if error.errno == errno.EBADF else error.strerror
        raise MpnetError(f"cannot write to standard output: {reason}") from None


def _open_closed() -> None:
    """Take the numbers of closed streams, or the next socket gets one, and what is printed goes there.

    Standard output refuses what is written, as if it were closed still; what is said on standard error is lost.
    """
    for fd, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        with suppress(OSError):
            os.fstat(fd)
            continue
        os.open(os.devnull, mode)  # the lowest that is free: this one
        if fd == _STDOUT:
            sys.stdout = os.fdopen(fd, "w", closefd=False)


def _give_up_stdout() -> None:
    """Let what could not be written go nowhere, or the interpreter tries again at its end."""
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - a descriptor is wanted
        os.dup2(nowhere.fileno(), _STDOUT)
