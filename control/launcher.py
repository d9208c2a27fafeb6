"""Starting worker processes by fork from a warm server, which has imported and compiled before.

The server is multiprocessing's forkserver. It starts first thing in ``mpnet run`` and imports while control does;
workers share its pages. It lives as long as control or any worker lives, and is started again if it dies.
"""

import asyncio
import errno
import multiprocessing
import os
import pkgutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from types import ModuleType
from typing import Any

import psutil

from mpnet.rpc.channel import Channel
from mpnet.rpc.worker import Report

WORKER = "mpnet.workers.main:run"
WARM = "mpnet.workers.warm"
"""Imported by the server before the first fork; a module that cannot be imported is passed over."""
_EXIT_WAIT_SECONDS = 10.0


class _ByName:
    """A function that only the worker imports: here it is a name, there it is itself."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return pkgutil.resolve_name, (self.name,)

    def __call__(self, *_arguments: Any) -> None:
        raise TypeError(f"{self.name} runs in a worker process only")


class Launcher:
    """Starts workers; one for all devices of a control process.

    Args:
        target: ``module:function`` of the worker, called with device, slot and socket.
        preload: what the server imports.
    """

    def __init__(self, target: str = WORKER, preload: tuple[str, ...] = (WARM,)) -> None:
        # The server's, and so the workers'. A thread of numpy's, though it ends before the first fork, has the C
        # library take each of their system calls for one of several threads: 3 % of a small frame's time.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))
        self._target = _ByName(target)
        self._aborted = False
        # One thread: multiprocessing's list of children is not for several, and a fork takes a few milliseconds.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mpnet-launcher")

    def warm_up(self) -> None:
        """Start the server, which then warms up by itself; returns at once."""
        forkserver.ensure_running()

    async def launch(self, device: str, slot: int) -> tuple[ForkServerProcess, Channel]:
        """Start one worker; return its process and control's end of the channel.

        Waits for the server to be warm.

        Raises:
            OSError, EOFError: no process can be made, or the server died.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._launch, device, slot)

    def _launch(self, device: str, slot: int) -> tuple[ForkServerProcess, Channel]:
        if self._aborted:
            raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = self._context.Process(
            target=self._target, args=(device, slot, theirs), name=f"mpnet-worker-{device}-{slot}"
        )
        try:
            with _main_hidden():
                process.start()
        except (OSError, EOFError):
            ours.close()
            raise
        finally:
            theirs.close()
        ours.settimeout(0)
        return process, Channel(ours, Report)

    async def exit_code(self, process: ForkServerProcess) -> int | None:
        """Return how an ended process ended: its status, or minus its signal; None when nobody can tell."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, _exit_code, process)

    def abort(self) -> None:
        """End a server that is still warming up, and with it every start that waits for it; start no more."""
        self._aborted = True
        for child in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):
                if any("multiprocessing.forkserver" in word for word in child.cmdline()):
                    child.kill()

    def close(self) -> None:
        """Stop the thread; the server ends with this process and its last worker."""
        self._thread.shutdown()


_UNKNOWN_STATUS = 255
"""What multiprocessing says when its server died and took the status with it."""


def _exit_code(process: ForkServerProcess) -> int | None:
    process.join(_EXIT_WAIT_SECONDS)
    code = process.exitcode
    if code is not None:
        process.close()
    return None if code == _UNKNOWN_STATUS else code


_main_lock = threading.Lock()


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Keep multiprocessing from importing control's main module, the whole command line, into each worker."""
    with _main_lock:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main
