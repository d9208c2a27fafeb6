"""The back-end channel of a session: what mpnet tells its front-end unasked (SET_BACKEND_REQ_FD)."""

import os
import socket
import stat
import threading
from contextlib import suppress

from mpnet.control.log import Log


class BackendChannel:
    """Tells one thing at a time; a front-end that does not listen misses it, and holds nobody up.

    Args:
        log: of the device.

    Attributes:
        fd: the front-end's channel, a socket or, of User-Mode Linux, a pipe; None: there is none.
    """

    def __init__(self, log: Log) -> None:
        self.fd: int | None = None
        self._log = log
        self._busy = threading.Lock()

    def tell(self, data: bytes) -> None:
        """Send a message, which is shorter than a pipe or a socket would take in parts."""
        if self.fd is None:
            return
        try:
            channel = os.dup(self.fd)
            if stat.S_ISSOCK(os.fstat(channel).st_mode):
                with socket.socket(fileno=channel) as sock:
                    sock.send(data, socket.MSG_DONTWAIT)
            else:
                self._write_aside(channel, data)
        except OSError as error:
            self._log.warning("config change not told to the front-end", problem=error.strerror)

    def _write_aside(self, pipe: int, data: bytes) -> None:
        """Write to a pipe: no flag keeps a write from waiting for another process that holds the pipe."""
        if not self._busy.acquire(blocking=False):
            os.close(pipe)
            raise BlockingIOError(0, "it has not read what it was told before")

        def write() -> None:
            with suppress(OSError):
                os.write(pipe, data)
            os.close(pipe)
            self._busy.release()

        threading.Thread(target=write, daemon=True).start()
