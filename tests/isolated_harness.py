"""``Harness`` with its worker in a process of its own, interpreted, isolated as ``mpnet run`` has it."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mpnet.control.fork_server import ForkServer, Process
from mpnet.rpc.channel import Channel, ChannelClosedError
from mpnet.rpc.worker import AttachPair, Report, Shutdown
from tests.worker_harness import PATIENCE, Harness

ROOT = Path(__file__).parent.parent


class Server:
    """A fork server of ``tests.isolated_worker``, asked from no event loop."""

    def __init__(self) -> None:
        if str(ROOT) not in sys.path:
            sys.path.append(str(ROOT))  # the fork server imports this folder by our path
        self._loop = asyncio.new_event_loop()
        self._server = ForkServer(
            "tests.isolated_worker:run",
            ("mpnet.workers.warm",),
            {"MPNET_JIT": "0", "MPNET_ISOLATION": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        self._server.start()

    def fork(self, device: str, channel: int, segment: int) -> Process:
        """Start a worker in slot 0."""
        return self._loop.run_until_complete(self._server.fork(device, 0, channel, segment))

    def status(self, process: Process) -> int | None:
        """Wait for its end: exit status, or minus the signal."""
        return self._loop.run_until_complete(asyncio.wait_for(process.status, PATIENCE))

    def close(self) -> None:
        self._server.close()
        self._loop.close()


@contextlib.contextmanager
def server() -> Iterator[Server]:
    started = Server()
    try:
        yield started
    finally:
        started.close()


class IsolatedHarness(Harness):
    """As ``Harness``, with a plan for the worker; use it as a context manager.

    Attributes:
        process: the worker's.
        status: how it ended, once it was stopped.
    """

    def __init__(self, forks: Server, plan: str = "", **keywords: Any) -> None:
        self._forks = forks
        self._plan = plan
        self.status: int | None = None
        super().__init__(backing="shm", **keywords)

    @property
    def _device(self) -> str:
        return f"{self.segment.name}{self._plan}"

    def _start_worker(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(PATIENCE)
        self.channel = Channel(ours, Report)
        self.process = self._forks.fork(self._device, theirs.fileno(), self.segment.fd)
        theirs.close()
        with contextlib.suppress(ChannelClosedError):
            self.ask(AttachPair(0, self._backend), [os.dup(self._tap_queue.fileno())], ours=True)
            self.set_memory()

    def stop_worker(self) -> None:
        """Ask it to end, hear what it says last, and wait for its end."""
        if self.status is not None:
            return
        with contextlib.suppress(ChannelClosedError):
            self.ask(Shutdown())
        with contextlib.suppress(ChannelClosedError, TimeoutError):
            while True:
                self.reports.append(self.channel.receive()[0])
        self.status = self._forks.status(self.process)
        os.close(self.process.pidfd)
        self.channel.close()
