"""The descriptors a worker is left with: those it was given, and three that lead nowhere or to the log."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_STDIN, _STDOUT, _STDERR = 0, 1, 2


def close_others(kept: Iterable[int]) -> str:
    """Close every descriptor but ``kept`` and stderr; stdin and stdout, which are control's, become /dev/null.

    Raises:
        OSError: /dev/null cannot be opened.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for standard in (_STDIN, _STDOUT):
        os.dup2(null, standard)
    begin = _STDERR + 1
    for fd in sorted(set(kept)):
        os.closerange(begin, fd)
        begin = max(begin, fd + 1)
    os.closerange(begin, os.sysconf("SC_OPEN_MAX"))
    return "what control had open is closed"


def let_go(fd: int) -> None:
    """Close a file that has been mapped; its duplicates lead to /dev/null from here on.

    ``mmap.mmap`` keeps one. Who can pass on a descriptor of the segment, as over the Unix socket that a front-end
    had for calls, has somebody cut the file short, and control ends by SIGBUS.
    """
    mapped = os.fstat(fd)
    os.close(fd)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for each in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        with suppress(OSError):  # what the folder itself was read by is closed
            if os.path.samestat(os.fstat(each), mapped):
                os.dup2(null, each, inheritable=False)
    os.close(null)
