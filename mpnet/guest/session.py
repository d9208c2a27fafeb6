"""A blocking vhost-user session of the embedded driver: the socket around ``vhost_user.frontend``."""

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import Self

from mpnet.errors import MpnetError, ProtocolError
from mpnet.vhost_user.framing import Framer, FramingError
from mpnet.vhost_user.frontend import Call, Frontend, Steps, Value, drive, parse_reply
from mpnet.vhost_user.messages import MAX_FDS, Message

_RETRY_SECONDS = 0.01


class Session:
    """One connection to a back-end.

    Args:
        sock: a connected stream socket; the session owns it.
        seconds: how long any one reply may take.

    Attributes:
        frontend: what was negotiated.
    """

    def __init__(self, sock: socket.socket, seconds: float = 30.0) -> None:
        sock.settimeout(seconds)
        self._socket = sock
        self._seconds = seconds
        self.frontend = Frontend()

    @classmethod
    def connect(cls, path: str | Path, seconds: float = 30.0) -> Self:
        """Connect to a back-end that listens at ``path``, or will within ``seconds``.

        Raises:
            MpnetError: nobody listened in time.
        """
        deadline = time.monotonic() + seconds
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.connect(str(path))
            except OSError as error:
                sock.close()
                if time.monotonic() > deadline:
                    raise MpnetError(
                        f"no vhost-user back-end listens at {path} after {seconds:g} s ({error.strerror})",
                        "start the device first, with this socket",
                    ) from error
                time.sleep(_RETRY_SECONDS)
            else:
                return cls(sock, seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session; a back-end stops every ring then."""
        self._socket.close()

    def run(self, steps: Steps) -> None:
        """Perform a sequence of calls.

        Raises:
            ProtocolError: the back-end refused a call, answered it wrongly, in time not at all, or hung up.
        """
        drive(steps, self.exchange)

    def ask(self, call: Call) -> Value:
        """Perform one call and return its value; 0 where no reply is due.

        Raises:
            ProtocolError: as ``run``.
        """
        reply = self.exchange(call)
        return parse_reply(call, reply) if reply is not None else 0

    def exchange(self, call: Call) -> Message | None:
        """Write one call and read the reply that is due.

        Raises:
            ProtocolError: no reply in time, or the back-end hung up.
        """
        try:
            sent = socket.send_fds(self._socket, [call.data], call.fds)
            self._socket.sendall(call.data[sent:])
            return self._read() if call.reply else None
        except TimeoutError:
            problem = f"the back-end did not answer {call.message.name} within {self._seconds:g} s"
        except OSError as error:
            problem = f"the back-end hung up at {call.message.name} ({error.strerror})"
        except FramingError as error:
            _close_all(error.fds)
            problem = f"the back-end answered {call.message.name} with no message: {error.problem}"
        raise ProtocolError(problem, "its log says why")

    def _read(self) -> Message:
        framer = Framer()
        message = None
        while message is None:
            data, fds, _flags, _address = socket.recv_fds(self._socket, framer.wanted, MAX_FDS)
            if not data:
                _close_all((*fds, *framer.abandon()))
                raise ConnectionResetError(0, "end of stream")
            message = framer.feed(data, fds)
        _close_all(message.fds)  # no reply to what is asked here brings any
        return message


def _close_all(fds: tuple[int, ...]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
