"""The one loop that takes connections: of front-ends, of commands and of scrapers. No exception ends it."""

import asyncio
import resource
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from mpnet.control.descriptors import Closer
from mpnet.control.log import Log
from mpnet.control.sockets import readable
from mpnet.control.tasks import Tasks

_PAUSE_SECONDS = 0.5
"""Before a connection that cannot be accepted is tried again: it waits in the kernel's queue."""
SPARE_DESCRIPTORS = 64
"""Kept back for devices: who asks and who looks must not keep a front-end out."""

Serve = Callable[[socket.socket], Coroutine[Any, Any, None]]
"""Serves a connection, which does not block, and closes it; that is done for it where it raises."""


class Acceptor:
    """Accepts connections, each in a task of its own, and bounds their number.

    Args:
        serve: what is done with each.
        log: where faults are told.
        most: connections at a time.
        refuse: what is done with one too many; without it, the one that has been there longest has to go.
        spare: descriptors that are to be left over.
    """

    def __init__(
        self,
        serve: Serve,
        log: Log,
        most: int,
        refuse: Callable[[socket.socket], None] | None = None,
        spare: int = 0,
    ) -> None:
        self._serve = serve
        self._log = log
        self._most = most
        self._refuse = refuse
        self._spare = spare
        self._loops = Tasks(log)
        self._served = Tasks(log)
        self._closer = Closer()
        self._connections: dict[asyncio.Task[None], None] = {}
        self.accepting = False
        """Whether the last one to come could be taken, or the first still can."""

    def start(self, listener: socket.socket) -> None:
        """Accept from now on; the listener stays the caller's."""
        listener.settimeout(0)
        self.accepting = True

        async def accept() -> None:
            await self._accept(listener)

        self._loops.keep(accept)

    async def close(self) -> None:
        """Accept no more, and cancel what is being served."""
        self.accepting = False
        await self._loops.cancel()
        await self._served.cancel()

    def let_close(self, sock: socket.socket) -> None:
        """Close a connection that nobody has read; while too many wait to be closed, none is accepted."""
        self._closer.close(sock)

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            if self._closer.full:
                self.accepting = False
                self._log.error("no connection is accepted: those before cannot be closed")
                await self._closer.room()
                self.accepting = True
            # Not loop.sock_accept: cancelled in the moment in which it has one, it drops the connection unclosed.
            await readable(listener)
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                continue  # it has gone again
            except OSError as error:
                self.accepting = False
                self._log.error("no connection can be accepted", problem=error.strerror)
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            self._take(sock)
            await asyncio.sleep(0)  # a queue full of connections is no reason to keep others waiting

    def _take(self, sock: socket.socket) -> None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Linux gives the lowest number that is free.
        if limit != resource.RLIM_INFINITY and sock.fileno() >= limit - self._spare:
            self.let_close(sock)
            self.accepting = False
            self._log.error("connection refused: file descriptors are short", limit=limit, spare=self._spare)
            return
        if len(self._connections) >= self._most:
            if self._refuse:
                self._refuse(sock)
                return
            oldest = next(iter(self._connections))
            del self._connections[oldest]
            oldest.cancel()
        sock.settimeout(0)
        self.accepting = True
        task = self._served.start(self._serve(sock))
        self._connections[task] = None
        task.add_done_callback(partial(self._ended, sock))

    def _ended(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        self._connections.pop(task, None)
        if task.cancelled() or task.exception():
            self.let_close(sock)
