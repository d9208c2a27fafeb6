"""Programs that end with the process that started them."""

import os

from mpnet.guest import debian

_RUN_IF_STILL_OURS = 'test "$PPID" = "$0" && exec "$@"'


def bound_to_us(signal: str = "KILL") -> list[str]:
    """Give the words to put before a command, so that it gets a signal when the calling *thread* ends.

    The kernel tells only a child that has asked (PR_SET_PDEATHSIG), and not of a parent that was gone by then: so
    the child looks at who its parent is after it asked.

    Args:
        signal: KILL, or TERM for a program that has something to clear up.

    Raises:
        MpnetError: setpriv is not on this machine.
    """
    setpriv = str(debian.program("setpriv"))
    return [setpriv, "--pdeathsig", signal, "sh", "-c", _RUN_IF_STILL_OURS, str(os.getpid())]
