"""The descriptors a worker is left with: those it was given, and three that lead nowhere or to the log."""

import os
from collections.abc import Iterable

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
