"""The fork server: a process that has loaded what workers need, and forks them from that.

It has one thread, one socket to control, and no work of its own. It ends when control and its last worker have.
"""

import contextlib
import importlib
import os
import pkgutil
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from setproctitle import setproctitle

from mpnet.ready import readable
from mpnet.rpc.channel import Channel, ChannelClosedError
from mpnet.rpc.fork_server import Ended, Fork, Forked, NotForked, Ready, Report

Run = Callable[[str, int, socket.socket, int], None]
"""What a worker does: device, slot, its end of the channel, descriptor of the segment, which is its to close."""


def main(fd: str, target: str, *preload: str) -> None:
    """Load what workers need, then fork them as control asks.

    Args:
        fd: number of the socket to control.
        target: ``module:function`` that a worker runs.
        preload: modules that are imported before.
    """
    # A terminal sends its signals, and a service manager may send them, to all processes of a family: this one
    # lives as long as somebody needs it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    setproctitle("mpnet: fork server")
    for name in preload:
        importlib.import_module(name)
    run: Run = pkgutil.resolve_name(target)
    ForkServer(Channel(socket.socket(fileno=int(fd)), Fork), run).serve()


class ForkServer:
    """Forks workers.

    Args:
        channel: to control; blocking.
        run: what a worker does.
    """

    def __init__(self, channel: Channel, run: Run) -> None:
        self._channel: Channel | None = channel
        self._run = run
        self._children: set[int] = set()
        # The byte that a signal writes here ends the wait for control; what it was is asked of the kernel.
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Fork and reap until control and all workers are gone."""
        self._say(Ready())
        while self._channel or self._children:
            sources = [self._woken, *([self._channel.fileno()] if self._channel else [])]
            ready = readable(*sources)
            if self._woken in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, 4096)
            self._reap()
            if self._channel and self._channel.fileno() in ready:
                self._take(self._channel)

    def _take(self, channel: Channel) -> None:
        try:
            message, (channel_fd, segment_fd) = channel.receive()
        except ChannelClosedError:
            self._forget_control()
            return
        try:
            pid = os.fork()
            if pid == 0:
                self._become_worker(message, channel_fd, segment_fd)
        except OSError as error:
            self._say(NotForked(error.errno or 0))
        else:
            self._children.add(pid)
            pidfd = os.pidfd_open(pid)  # it is not reaped yet, so this is the one
            self._say(Forked(pid), pidfd)
            os.close(pidfd)
        finally:
            os.close(channel_fd)
            os.close(segment_fd)

    def _become_worker(self, order: Fork, channel_fd: int, segment_fd: int) -> NoReturn:
        status = 1
        try:
            self._leave_behind()
            self._run(order.device, order.slot, socket.socket(fileno=channel_fd), segment_fd)
            status = 0
        except BaseException:  # noqa: BLE001 - whatever it was, this process is no second fork server
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                sys.stderr.flush()
            os._exit(status)

    def _leave_behind(self) -> None:
        """Let go of what is the fork server's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.close(self._woken)
        os.close(self._wake)
        if self._channel:
            self._channel.close()

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._children.discard(pid)
            self._say(Ended(pid, os.waitstatus_to_exitcode(status)))

    def _say(self, report: Report, *fds: int) -> None:
        if self._channel is None:
            return
        try:
            self._channel.send(report, fds)
        except ChannelClosedError:
            self._forget_control()

    def _forget_control(self) -> None:
        if self._channel:
            self._channel.close()
            self._channel = None
