"""A socket that carries typed messages and file descriptors between control and a worker."""

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
import msgspec

from mpnet.jit.system_calls import Call

MAX_MESSAGE_BYTES = 128 * 1024
MAX_FDS = 253
"""SCM_MAX_FD of Linux."""
SYSTEM_CALLS = (Call("recvmsg"), Call("sendmsg"))


class ChannelClosedError(Exception):
    """The other end is gone."""


class Channel:
    """One end of a ``SOCK_SEQPACKET`` pair: a message a packet, its file descriptors with it.

    Args:
        sock: the connected socket; the channel owns it from here on.
        accepted: the ``msgspec.Struct`` types that may arrive, tagged; anything else is an error.
        dispose: closes descriptors that came with what is none of these.
    """

    def __init__(
        self, sock: socket.socket, accepted: Any, dispose: Callable[[Sequence[int]], None] | None = None
    ) -> None:
        self.sock = sock
        self._accepted = accepted
        self._dispose = dispose or _close

    def fileno(self) -> int:
        """The socket's file descriptor, for a selector."""
        return self.sock.fileno()

    def send(self, message: msgspec.Struct, fds: Sequence[int] = ()) -> None:
        """Send one message; the receiver gets duplicates of ``fds``.

        Raises:
            ChannelClosedError: the other end is gone.
        """
        data = msgpack.packb(msgspec.to_builtins(message))
        try:
            socket.send_fds(self.sock, [data], list(fds))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChannelClosedError from error

    def receive(self) -> tuple[Any, list[int]]:
        """Take one message and the file descriptors that came with it, which the caller owns.

        Raises:
            ChannelClosedError: the other end is gone.
            BlockingIOError: nothing is there and the socket does not block.
        """
        try:
            data, fds, _, _ = socket.recv_fds(self.sock, MAX_MESSAGE_BYTES, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError as error:
            raise ChannelClosedError from error
        if not data:
            raise ChannelClosedError
        try:
            return msgspec.convert(msgpack.unpackb(data), self._accepted), fds
        except Exception:
            self._dispose(fds)
            raise

    def close(self) -> None:
        """Close this end."""
        self.sock.close()


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
