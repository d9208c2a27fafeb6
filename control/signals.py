"""What signals do to the control process: those that end it end it cleanly, and the others do not end it."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mpnet.control.log import get_log

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_WITHOUT_MEANING = (signal.SIGUSR1, signal.SIGUSR2)
_STREAMS = (0, 1, 2)


@contextmanager
def handled_signals(stop: Callable[[], None], reload: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` at SIGTERM and SIGINT, and ``reload`` at SIGHUP, as daemons do.

    A SIGHUP that says that the terminal is gone in which this process was started stops it, as any other command.
    """
    loop = asyncio.get_running_loop()
    on_terminal = _on_terminal()

    def hang_up() -> None:
        if on_terminal and not _on_terminal():
            stop()
        else:
            reload()

    def pass_over(number: signal.Signals) -> None:
        get_log().info("signal without meaning", signal=number.name)

    for number in _STOPPING:
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, hang_up)
    for number in _WITHOUT_MEANING:
        loop.add_signal_handler(number, pass_over, number)
    try:
        yield
    finally:
        for number in (*_STOPPING, signal.SIGHUP, *_WITHOUT_MEANING):
            loop.remove_signal_handler(number)


def _on_terminal() -> bool:
    return any(os.isatty(fd) for fd in _STREAMS)
