"""Starting worker processes, by fork from a server that has loaded before what they need.

The server starts first thing in ``mpnet run`` and imports while control does; workers share its pages. It lives
as long as control or any worker lives, and is started again if it dies.
"""

import errno
import os
import socket

from mpnet.control.fork_server import ForkServer, Process
from mpnet.rpc.channel import Channel
from mpnet.rpc.worker import Report

WORKER = "mpnet.workers.main:run"
WARM = "mpnet.workers.warm"
"""Imported by the server before the first fork."""
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}
"""A thread of numpy's, though it ends before the first fork, has the C library take each of workers' system calls
for one of several threads: 3 % of a small frame's time."""


class Launcher:
    """Starts workers; one for all devices of a control process.

    Args:
        target: ``module:function`` of the worker, as ``workers.fork_server.Run`` has it.
        preload: what the server imports.
    """

    def __init__(self, target: str = WORKER, preload: tuple[str, ...] = (WARM,)) -> None:
        self._target, self._preload = target, preload
        self._server = self._new_server()
        self._aborted = False

    def _new_server(self) -> ForkServer:
        return ForkServer(self._target, self._preload, {**_ENVIRONMENT, **os.environ})

    def warm_up(self) -> None:
        """Start the server, which then warms up by itself; returns at once."""
        if not self._server.alive:
            self._server.close()
            self._server = self._new_server()
            self._server.start()

    async def launch(self, device: str, slot: int, segment: int) -> tuple[Process, Channel]:
        """Start one worker; return its process and control's end of the channel.

        Waits for the server to be warm.

        Args:
            device: its name.
            slot: the worker's place.
            segment: descriptor of the device's segment.

        Raises:
            OSError: no process can be made, or the server died.
        """
        if self._aborted:
            raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
        self.warm_up()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            process = await self._server.fork(device, slot, theirs.fileno(), segment)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.settimeout(0)
        return process, Channel(ours, Report)

    def abort(self) -> None:
        """End a server that is still warming up, and with it every start that waits for it; start no more."""
        self._aborted = True
        self._server.kill()

    def close(self) -> None:
        """Let go of the server: it ends with its last worker."""
        self._server.close()
