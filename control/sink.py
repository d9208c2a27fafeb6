"""Where log lines go: a bounded queue, and a thread that writes it. Nobody waits for the log's reader."""

import io
import os
import select
import threading
from collections import deque
from collections.abc import Callable

MOST_BYTES = 1 << 20
"""Of lines that wait for a reader which does not keep up; those beyond are lost, and counted."""
DRAIN_SECONDS = 0.5
"""How long the end of the process waits for what is still in the queue."""


class Sink(io.TextIOBase):
    """A stream whose ``write`` neither blocks nor raises, whatever is at the other end of its file descriptor.

    Args:
        fd: where to; it stays the caller's.
        most_bytes: that may wait.
        regained: called, in the writing thread, with how many lines were lost, once one could be written again.

    Attributes:
        lost: lines that could not be written, since the start.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(
        self, fd: int, most_bytes: int = MOST_BYTES, regained: Callable[[int], None] = lambda _lost: None
    ) -> None:
        self.lost = 0
        self._fd = fd
        self._most_bytes = most_bytes
        self._regained = regained
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._reported = 0
        self._torn = False
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """The file descriptor behind it."""
        return self._fd

    def isatty(self) -> bool:
        """Whether a person may be looking."""
        return os.isatty(self._fd)

    def write(self, text: str, /) -> int:
        """Take text to be written soon, or count it as lost."""
        data = text.encode(self.encoding, self.errors)
        with self._changed:
            if self._bytes + len(data) > self._most_bytes:
                self.lost += 1
                return len(text)
            self._lines.append(data)
            self._bytes += len(data)
            if self._thread is None:
                # A daemon: one that is stuck in a write must not keep the process.
                self._thread = threading.Thread(target=self._run, name="mpnet-log", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return len(text)

    def drain(self, seconds: float = DRAIN_SECONDS) -> bool:
        """Wait until all is written, or so long; tell whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._bytes, seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._lines))
                data = self._lines.popleft()
            written = self._write_all(data)
            with self._changed:
                self._bytes -= len(data)
                self.lost += not written
                lost, self._reported = self.lost - self._reported, self.lost if written else self._reported
                self._changed.notify_all()
            if written and lost:
                self._regained(lost)

    def _write_all(self, data: bytes) -> bool:
        """Write a line whole; False, and nothing raised, where that cannot be."""
        if self._torn:
            data = b"\n" + data
        whole = len(data)
        try:
            while data:
                try:
                    data = data[os.write(self._fd, data) :]
                except BlockingIOError:  # who shares the terminal with us may have made it so
                    room = select.poll()
                    room.register(self._fd, select.POLLOUT)
                    room.poll()
        except OSError:
            self._torn = self._torn or len(data) < whole
            return False
        self._torn = False
        return True
