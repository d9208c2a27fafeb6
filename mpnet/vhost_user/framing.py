"""From a byte stream to messages, each with the file descriptors that came with it.

Why the header and the payload are read apart. Descriptors travel as SCM_RIGHTS beside the first byte of the
``sendmsg`` that carried them, and a stream socket keeps no other boundary. Linux ends a ``recvmsg`` after the
first piece of data that had descriptors, but begins it wherever the last one stopped: a read of "whatever is
there" may return a message without descriptors and the next one with them, glued, and nobody can tell whose
they are. SET_VRING_CALL followed by SET_VRING_KICK would be enough to swap two eventfds.

So never ask for a byte past the current message: first 12 bytes, which can only be one header and bring that
message's descriptors, then exactly the payload it announces. ``Framer.wanted`` is that number. A sender that
writes header and payload apart is served as well: descriptors of both reads belong to the one message.
"""

from collections.abc import Sequence

from mpnet.errors import ProtocolError
from mpnet.vhost_user.messages import HEADER, MAX_FDS, MAX_PAYLOAD, VERSION, VERSION_MASK, Message


class FramingError(ProtocolError):
    """Bytes that are no message; the stream cannot be followed any further.

    Attributes:
        fds: descriptors that came with the bytes; whoever catches this closes them.
    """

    def __init__(self, problem: str, fds: tuple[int, ...]) -> None:
        super().__init__(problem)
        self.fds = fds


class Framer:
    """Collects one message at a time from reads of at most ``wanted`` bytes."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._fds: list[int] = []
        self._size = 0

    @property
    def wanted(self) -> int:
        """Bytes to read next, at least 1; reading more than this breaks the descriptors' order."""
        return HEADER.size + self._size - len(self._data)

    @property
    def midway(self) -> bool:
        """Part of a message has come: the stream must not end here."""
        return bool(self._data or self._fds)

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> Message | None:
        """Take what one read returned; give the message once it is whole.

        Raises:
            FramingError: a version other than 1, a payload or a number of descriptors past the bounds, or
                more bytes than ``wanted``. It carries every descriptor held; the framer starts afresh.
        """
        self._fds += fds
        if len(data) > self.wanted:
            self._fail(f"a read brought {len(data)} bytes, {self.wanted} were wanted")
        if len(self._fds) > MAX_FDS:
            self._fail(f"a message brought {len(self._fds)} file descriptors, expected at most {MAX_FDS}")
        header_was_whole = len(self._data) >= HEADER.size
        self._data += data
        if len(self._data) < HEADER.size:
            return None
        if not header_was_whole:
            self._check_header()
        if len(self._data) < HEADER.size + self._size:
            return None
        return self._take()

    def abandon(self) -> tuple[int, ...]:
        """Forget a message half come, as at the end of the stream; return its descriptors, to be closed."""
        fds = tuple(self._fds)
        self._data.clear()
        self._fds.clear()
        self._size = 0
        return fds

    def _check_header(self) -> None:
        request, flags, size = HEADER.unpack_from(self._data)
        if flags & VERSION_MASK != VERSION:
            self._fail(f"request {request} has protocol version {flags & VERSION_MASK}, expected {VERSION}")
        if size > MAX_PAYLOAD:
            self._fail(f"request {request} announces a payload of {size} bytes, expected at most {MAX_PAYLOAD}")
        self._size = size

    def _take(self) -> Message:
        request, flags, _size = HEADER.unpack_from(self._data)
        payload = bytes(self._data[HEADER.size :])
        return Message(request, payload, self.abandon(), flags)

    def _fail(self, problem: str) -> None:
        raise FramingError(problem, self.abandon())
