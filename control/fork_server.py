"""Control's proxy of a fork server: starts it, has it fork workers, and hears how these ended."""

import asyncio
import errno
import os
import socket
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from mpnet.control import program
from mpnet.rpc.channel import Channel, ChannelClosedError
from mpnet.rpc.fork_server import Ended, Fork, Forked, NotForked, Ready, Report

_SERVER = "mpnet.workers.fork_server:main"
_LEAVE_SECONDS = 10.0
_REAP_SECONDS = 0.5


@dataclass(eq=False, slots=True)
class Process:
    """A forked worker.

    Attributes:
        pid: its number, another process's once it has ended.
        pidfd: the caller's to close.
        status: how it ended: its exit status, or minus its signal; None when that went with its server.
    """

    pid: int
    pidfd: int
    status: asyncio.Future[int | None] = field(repr=False)


class ForkServer:
    """One fork server process; used by one event loop, ``start`` by anybody before.

    Args:
        target: ``module:function`` that workers run: ``workers.fork_server.Run``.
        preload: modules that the server imports first.
        environment: what the server has beside control's environment.
    """

    def __init__(
        self, target: str, preload: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        self._target = target
        self._preload = preload
        self._environment = dict(environment or {})
        self._server: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready: asyncio.Future[None] | None = None
        self._asked: deque[asyncio.Future[Process]] = deque()
        self._running: dict[int, Process] = {}
        self._retired = False

    @property
    def alive(self) -> bool:
        """Whether it can be asked: it has been started and has not been seen to end."""
        return self._channel is not None

    def start(self) -> None:
        """Start the process, which then loads by itself; returns at once.

        Raises:
            OSError: no process can be made.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        words = program.command(_SERVER, str(theirs.fileno()), self._target, *self._preload)
        try:
            self._server = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **self._environment},
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.settimeout(0)
        self._channel = Channel(ours, Report)

    async def ready(self) -> None:
        """Wait until it has loaded all.

        Raises:
            OSError: it ended instead.
        """
        self._listen()
        assert self._ready
        await asyncio.shield(self._ready)

    async def fork(self, device: str, slot: int, channel: int, segment: int) -> Process:
        """Fork a worker; waits for the server to have loaded all.

        Args:
            device: its name.
            slot: the worker's place.
            channel: descriptor of the worker's end of its channel to control.
            segment: descriptor of the device's segment.

        Raises:
            OSError: no process can be made, or the server ended.
        """
        channel_to_server = self._listen()
        answer: asyncio.Future[Process] = asyncio.get_running_loop().create_future()
        try:
            channel_to_server.send(Fork(device, slot), [channel, segment])
        except ChannelClosedError:
            self._lose()
            raise _lost() from None
        self._asked.append(answer)
        return await answer

    def retire(self) -> None:
        """Let it end with the last of its workers."""
        self._retired = True
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        if self._retired and not self._running and not self._asked:
            self._lose()
            self._reap()

    def _reap(self) -> None:
        """Take its status once it has ended; it has nothing left to do."""
        if self._server and self._server.poll() is None and self._loop:
            self._loop.call_later(_REAP_SECONDS, self._reap)

    def kill(self) -> None:
        """End it, and with it every start that waits for it; its workers live on."""
        if self._server:
            self._server.kill()

    def close(self) -> None:
        """Let go of it: it ends with its last worker."""
        self._lose()
        if self._server:
            with suppress(subprocess.TimeoutExpired):
                self._server.wait(_LEAVE_SECONDS)

    def _listen(self) -> Channel:
        """Hear of what it says from now on."""
        if self._channel is None:
            raise _lost()
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._ready = self._loop.create_future()
            self._loop.add_reader(self._channel.fileno(), self._receive)
        return self._channel

    def _receive(self) -> None:
        while self._channel is not None:
            try:
                report, fds = self._channel.receive()
            except BlockingIOError:
                return
            except ChannelClosedError:
                self._lose()
                return
            self._take(report, fds)

    def _take(self, report: Report, fds: list[int]) -> None:
        match report:
            case Ready():
                if self._ready and not self._ready.done():
                    self._ready.set_result(None)
            case Forked(pid):
                process = Process(pid, fds[0], asyncio.get_running_loop().create_future())
                self._running[pid] = process
                answer = self._asked.popleft()
                if answer.done():  # whoever asked has gone; the worker goes too, once it finds its channel closed
                    os.close(process.pidfd)
                else:
                    answer.set_result(process)
            case NotForked(error):
                answer = self._asked.popleft()
                if not answer.done():
                    answer.set_exception(OSError(error, os.strerror(error)))
            case Ended(pid, status):
                process = self._running.pop(pid)
                if not process.status.done():
                    process.status.set_result(status)
                self._leave_if_done()

    def _lose(self) -> None:
        """Take note that nothing comes from it any more."""
        if self._channel is None:
            return
        if self._loop and not self._loop.is_closed():
            self._loop.remove_reader(self._channel.fileno())
            for process in self._running.values():
                if not process.status.done():
                    process.status.set_result(None)
            for waiting in (*self._asked, self._ready):
                _fail(waiting)
        self._asked.clear()
        self._running.clear()
        self._channel.close()
        self._channel = None


def _fail(waiting: asyncio.Future[Any] | None) -> None:
    if waiting and not waiting.done():
        waiting.set_exception(_lost())
        waiting.exception()  # nobody needs to have waited


def _lost() -> OSError:
    return OSError(errno.ESRCH, "the process that forks workers has ended")
