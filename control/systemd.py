"""What systemd is told: that the devices are served, that control lives, that it reloads or stops.

The protocol is one datagram a message (sd_notify(3)): less than a library would take to be looked after. The
sockets that systemd hands over are found where sockets are bound, in ``mpnet.rpc.unix_socket``.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

from mpnet.control.log import get_log
from mpnet.control.notify import notify
from mpnet.control.server import Control
from mpnet.control.tasks import Tasks

_US = 1_000_000


@asynccontextmanager
async def tell_systemd(control: Control) -> AsyncIterator[None]:
    """Say that all is served, then that the event loop turns, and that it ends; nothing where systemd is not.

    It is to be the last service: what systemd starts after this one finds the devices there.
    """
    notify("READY=1", f"STATUS=serving {' '.join(control.devices)}")
    tasks = Tasks(get_log())
    if seconds := watchdog_seconds():
        tasks.keep(partial(_keep_alive, seconds))
    try:
        yield
    finally:
        notify("STOPPING=1", "STATUS=stopping")
        await tasks.cancel()


@contextmanager
def reloading() -> Iterator[None]:
    """Say that the configuration is read again, and when that is done."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
    try:
        yield
    finally:
        notify("READY=1")


def watchdog_seconds() -> float | None:
    """How often the service manager wants a sign of life of this process, halved; None where it wants none."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    with contextlib.suppress(ValueError):
        microseconds = int(os.environ.get("WATCHDOG_USEC", ""))
        return microseconds / _US / 2 if microseconds > 0 else None
    return None


async def _keep_alive(seconds: float) -> None:
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(seconds)
