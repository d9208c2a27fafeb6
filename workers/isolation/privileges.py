"""What a process may not get, and who may look into it (prctl(2))."""

from mpnet.workers.isolation.libc import prctl

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38


def no_new() -> str:
    """No program that this process might start has more privileges than it."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    return "set"


def not_dumpable() -> str:
    """No process of the same user looks into this one, and it leaves no core behind."""
    prctl(_PR_SET_DUMPABLE, 0)
    return "set"
