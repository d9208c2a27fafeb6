"""Where front-ends meet a device: the socket it listens on, or the one it connects to; one at a time."""

import asyncio
import socket
from collections.abc import Callable

from mpnet.control.device import Device
from mpnet.control.peer import Peer
from mpnet.control.session import Session
from mpnet.errors import MpnetError
from mpnet.rpc.unix_socket import bind_unix, release_unix

_HANDOVER_SECONDS = 1.0
"""How long a new front-end waits for the last one to be seen to leave: QEMU killed and started again at once."""
_RECONNECT_SECONDS = 0.5
_FIRST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 1.0
"""QEMU comes back at once and without end when it cannot use what is offered: it is made to wait, twice as long
each time, so that it floods neither the processor nor the log."""


class Endpoint:
    """A device's vhost-user socket.

    Args:
        device: started.
        left: called when the connection of an inherited socket is over.
    """

    def __init__(self, device: Device, left: Callable[[Device], None]) -> None:
        self._device = device
        self._left = left
        self._listener: socket.socket | None = None
        self._session: Session | None = None
        self._served: asyncio.Task[None] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._pause = 0.0

    def open(self) -> None:
        """Listen, or begin to connect.

        Raises:
            MpnetError: the socket's path is too long, in use or forbidden, or the inherited one is none.
        """
        config = self._device.config
        if config.socket_fd is not None:
            self._begin(_inherited(config.socket_fd)).add_done_callback(lambda _: self._left(self._device))
            return
        if config.client:
            self._serving = asyncio.create_task(self._connect())
            return
        self._listener = bind_unix(config.socket)
        self._listener.settimeout(0)
        self._serving = asyncio.create_task(self._accept(self._listener))
        self._device.log.info("waiting for a front-end", socket=config.socket)

    async def close(self) -> None:
        """End the session and remove the socket."""
        if self._serving:
            self._serving.cancel()
            await asyncio.wait([self._serving])
        if self._session and self._served:
            self._session.hang_up()
            await asyncio.wait([self._served])
        if self._listener:
            release_unix(self._listener)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            try:
                await self._hand_over()
                await self._slow_down()
            except asyncio.CancelledError:
                sock.close()
                raise
            if self._served and not self._served.done():
                self._refuse(sock)
            else:
                self._begin(sock)

    async def _hand_over(self) -> None:
        """Wait for the last session to end: a little, or once its front-end has left until it has."""
        if self._session and self._served:
            await asyncio.wait([self._served], timeout=_HANDOVER_SECONDS)
            if self._session.ending:
                await asyncio.wait([self._served])

    async def _slow_down(self) -> None:
        """Wait after a session that came to nothing."""
        if self._session is None or not self._session.fruitless or not (self._served and self._served.done()):
            self._pause = 0.0
            return
        self._pause = min(max(2 * self._pause, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
        await asyncio.sleep(self._pause)

    def _refuse(self, sock: socket.socket) -> None:
        with sock:
            peer = Peer.of(sock)
        first = self._device.peer
        self._device.log.warning(
            "second front-end refused: the device has one already",
            pid=peer.pid,
            name=peer.name,
            attached=first.pid if first else None,
        )

    def _begin(self, sock: socket.socket) -> asyncio.Task[None]:
        sock.settimeout(0)
        self._session = Session(self._device, sock)
        self._served = asyncio.create_task(self._session.run())
        self._served.add_done_callback(self._report)
        return self._served

    def _report(self, served: asyncio.Task[None]) -> None:
        if not served.cancelled() and (error := served.exception()):
            self._device.log.error("session failed", exc_info=error)

    async def _connect(self) -> None:
        path = self._device.config.socket
        told = False
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(0)
            try:
                await asyncio.get_running_loop().sock_connect(sock, path)
            except OSError as error:
                sock.close()
                if not told:
                    self._device.log.info(
                        "waiting for the front-end's socket", socket=path, problem=error.strerror
                    )
                told = True
            except asyncio.CancelledError:
                sock.close()
                raise
            else:
                told = False
                await asyncio.wait([self._begin(sock)])
            await asyncio.sleep(_RECONNECT_SECONDS)


def _inherited(fd: int) -> socket.socket:
    try:
        return socket.socket(fileno=fd)
    except OSError as error:
        raise MpnetError(
            f"file descriptor {fd} is no connected socket ({error.strerror})", "pass one in, as fd:3"
        ) from None
