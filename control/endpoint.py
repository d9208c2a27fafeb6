"""Where front-ends meet a device: the socket it listens on, or the one it connects to; one at a time."""

import asyncio
import select
import socket
from collections.abc import Callable

from mpnet.control import descriptors
from mpnet.control.acceptor import Acceptor
from mpnet.control.budget import metered
from mpnet.control.device import Device
from mpnet.control.peer import Peer, uids
from mpnet.control.session import Session
from mpnet.control.sockets import readable
from mpnet.control.tasks import Tasks
from mpnet.errors import MpnetError
from mpnet.rpc.unix_socket import bind_unix, release_unix

MOST_WAITING = 32
"""Connections that have said nothing yet or wait for the device; the one that has waited longest has to go."""
SILENT_SECONDS = 5.0
"""How long a connection may say nothing: QEMU, DPDK and User-Mode Linux speak at once."""
_HANDOVER_SECONDS = 1.0
"""How long a new front-end waits for the last one to be seen to leave: QEMU killed and started again at once."""
_RECONNECT_SECONDS = 0.5
_FIRST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 1.0
"""QEMU comes back at once and without end when it cannot use what is offered: it is made to wait, twice as long
each time, so that it floods neither the processor nor the log. Others are not."""
_ROOT = 0


class Endpoint:
    """A device's vhost-user socket.

    Who connects waits outside until it speaks, and holds nothing up: the device goes to the first that does.

    Args:
        device: started.
        left: called when the connection of an inherited socket is over.
    """

    def __init__(self, device: Device, left: Callable[[Device], None]) -> None:
        self._device = device
        self._left = left
        self._listener: socket.socket | None = None
        self._acceptor = Acceptor(self._admit, device.log, MOST_WAITING)
        self._tasks = Tasks(device.log)
        self._budget = device.budget
        self._users: frozenset[int] = frozenset()
        self._session: Session | None = None
        self._served: asyncio.Task[None] | None = None
        self._pause = 0.0
        self._pause_ends = 0.0
        self._paused_pid: int | None = None

    def open(self) -> None:
        """Listen, or begin to connect.

        Raises:
            MpnetError: the socket's path is too long, in use or forbidden, the inherited one is none, or a user
                that the device is for does not exist.
        """
        config = self._device.config
        self._users = uids(config.users)
        if config.socket_fd is not None:
            sock = _inherited(config.socket_fd)
            served = self._begin(sock, Peer.of(sock), patient=True)
            served.add_done_callback(lambda _: self._left(self._device))
            return
        if config.client:
            self._tasks.keep(self._connect)
            return
        self._listener = bind_unix(config.socket, config.socket_permissions, config.socket_group)
        self._acceptor.start(self._listener)
        self._device.accepts = lambda: self._acceptor.accepting
        self._device.log.info("waiting for a front-end", socket=config.socket)

    async def close(self) -> None:
        """End the session and remove the socket."""
        await self._acceptor.close()
        await self._tasks.cancel()
        if self._session and self._served:
            self._session.hang_up()
            await asyncio.wait([self._served])
        if self._listener:
            release_unix(self._listener)

    async def _admit(self, sock: socket.socket) -> None:
        """Begin a session once the connection has spoken and its turn has come."""
        peer = Peer.of(sock)
        if self._may_attach(peer) and await self._speaks(sock, peer) and await self._turn(sock, peer):
            self._begin(sock, peer)
        else:
            self._acceptor.let_close(sock)

    def _may_attach(self, peer: Peer) -> bool:
        if not self._users or peer.uid in self._users or peer.uid == _ROOT:
            return True
        self._device.log.warning(
            "front-end refused: the device is not for its user",
            pid=peer.pid,
            name=peer.name,
            uid=peer.uid,
            users=self._device.config.users,
        )
        return False

    async def _speaks(self, sock: socket.socket, peer: Peer) -> bool:
        try:
            async with asyncio.timeout(SILENT_SECONDS):
                await readable(sock)
            return bool(sock.recv(1, socket.MSG_PEEK))
        except TimeoutError:
            self._device.log.warning("silent front-end closed", pid=peer.pid, name=peer.name)
        except OSError:
            pass  # it has gone
        return False

    async def _turn(self, sock: socket.socket, peer: Peer) -> bool:
        """Wait until the device is free: a little, or once its front-end has left until that has been done."""
        loop = asyncio.get_running_loop()
        patience = loop.time() + _HANDOVER_SECONDS
        while True:
            if self._session and self._served and not self._served.done():
                left = None if self._session.ending else patience - loop.time()
                if left is not None and left <= 0:
                    self._refuse(peer)
                    return False
                await asyncio.wait([self._served], timeout=left)
            elif wait := self._wait(peer):
                await asyncio.sleep(wait)
            else:
                return True
            if _gone(sock):
                return False

    def _wait(self, peer: Peer) -> float:
        """Seconds a front-end has to wait: until the budget is made up for, or as its last session was idle."""
        pause = 0.0
        if peer.pid == self._paused_pid:
            pause = self._pause_ends - asyncio.get_running_loop().time()
        return max(pause, self._budget.debt)

    def _note_end(self, pid: int, session: Session) -> None:
        if not session.fruitless:
            self._paused_pid, self._pause = None, 0.0
            return
        before = self._pause if pid == self._paused_pid else 0.0
        self._pause = min(max(2 * before, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
        self._pause_ends = asyncio.get_running_loop().time() + self._pause
        self._paused_pid = pid

    def _refuse(self, peer: Peer) -> None:
        first = self._device.peer
        self._device.log.warning(
            "second front-end refused: the device has one already",
            pid=peer.pid,
            name=peer.name,
            attached=first.pid if first else None,
        )

    def _begin(self, sock: socket.socket, peer: Peer, *, patient: bool = False) -> asyncio.Task[None]:
        sock.settimeout(0)
        self._session = Session(self._device, sock, self._budget, patient=patient)
        self._served = asyncio.create_task(self._serve(self._session, sock, peer.pid))
        return self._served

    async def _serve(self, session: Session, sock: socket.socket, pid: int) -> None:
        try:
            await metered(session.run(), self._budget.spend)
        except Exception:  # whatever it is, the next front-end is to be served
            self._device.log.exception("session failed")
            self._acceptor.let_close(sock)
        self._note_end(pid, session)

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
                peer = Peer.of(sock)
                if self._may_attach(peer):
                    await asyncio.wait([self._begin(sock, peer, patient=True)])
                else:  # what it may have queued is closed before the next attempt
                    await descriptors.close_foreign((sock.detach(),), asyncio.Event())
            await asyncio.sleep(_RECONNECT_SECONDS)


def _gone(sock: socket.socket) -> bool:
    """Whether who connected has hung up again."""
    waiting = select.poll()
    waiting.register(sock, select.POLLRDHUP)
    return bool(waiting.poll(0))


def _inherited(fd: int) -> socket.socket:
    try:
        return socket.socket(fileno=fd)
    except OSError as error:
        raise MpnetError(
            f"file descriptor {fd} is no connected socket ({error.strerror})", "pass one in, as fd:3"
        ) from None
