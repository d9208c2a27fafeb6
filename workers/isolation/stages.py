"""The stages in their order, each gone through whatever became of the one before."""

from collections.abc import Callable
from typing import NamedTuple

from mpnet.workers.isolation import capabilities, declared, landlock, namespaces, privileges, root, seccomp, user


class Stage(NamedTuple):
    """How one ended.

    Attributes:
        name: what it takes away.
        done: whether it did.
        detail: what the process is left with; or why it was not possible here.
    """

    name: str
    done: bool
    detail: str


def isolate(device: str) -> list[Stage]:
    """Take from this process what a worker of ``device`` does not need; its one thread must be the caller.

    What is declared, and no more, can be done afterwards.
    """
    steps: list[tuple[str, Callable[[], str]]] = [
        ("user", lambda: user.become_another(device)),
        ("user namespace", namespaces.user),
        ("network namespace", namespaces.network),
        ("ipc namespace", namespaces.ipc),
        ("mount namespace", root.leave),
        ("capabilities", capabilities.give_up),
        ("no new privileges", privileges.no_new),
        ("not dumpable", privileges.not_dumpable),
        ("landlock", landlock.restrict),
        ("system calls", _filter),
    ]
    return [_attempt(name, step) for name, step in steps]


def _attempt(name: str, step: Callable[[], str]) -> Stage:
    try:
        return Stage(name, done=True, detail=step())
    except OSError as error:
        return Stage(name, done=False, detail=error.strerror or str(error))


def _filter() -> str:
    calls = declared.calls()
    seccomp.install(seccomp.assemble(calls))
    return f"{len({call.name for call in calls})} of them"
