"""The host's end of the embedded driver's flows: a process with one UDP socket that sends all back.

Run as ``python -m mpnet.demo.echo FD`` with an inherited socket; ends when its standard input does, and prints
two counts then: datagrams received and datagrams sent back.
"""

import socket
import struct
import subprocess
import sys
from contextlib import suppress

from mpnet.ready import readable

_LOOK_SECONDS = 0.1
_DATAGRAM_BYTES = 1 << 16
_STOP_SECONDS = 20.0
_BUFFER_BYTES = 4 << 20
_FRAME_MEMORY = 2304
"""What the kernel charges a socket for a full-sized frame."""
_SO_RCVBUFFORCE = 33


class EchoPeer:
    """A socket in this network namespace and the process that serves it; a context manager.

    Args:
        address: where it is bound.

    Attributes:
        port: chosen by the kernel.
        capacity: full-sized datagrams that wait in the socket without loss.
    """

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, 0))
        # Beyond the machine's limit only where the kernel counts the root of a namespace as root.
        for option in (socket.SO_RCVBUF, _SO_RCVBUFFORCE):
            with suppress(PermissionError):
                self._socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        self.port: int = self._socket.getsockname()[1]
        self.capacity = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // _FRAME_MEMORY
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "EchoPeer":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def start(self) -> None:
        """Serve what has come to the socket so far, and what comes."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mpnet.demo.echo", str(self._socket.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=(self._socket.fileno(),),
            start_new_session=True,  # Ctrl-C is for us
        )

    def finish(self) -> tuple[int, int]:
        """End the process; datagrams received, and sent back."""
        assert self._process is not None, "it was not started"
        said, _ = self._process.communicate(timeout=_STOP_SECONDS)
        received, returned = map(int, said.split())
        return received, returned


def main() -> None:
    """Serve the socket named on the command line."""
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        # A timeout of Python's own would cost a poll for each datagram.
        timeout = struct.pack("@ll", 0, int(_LOOK_SECONDS * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        print(*echo(sock))  # noqa: T201 - standard output is how it answers


def echo(sock: socket.socket) -> tuple[int, int]:
    """Send back what comes until standard input ends; datagrams received, and sent back."""
    buffer = memoryview(bytearray(_DATAGRAM_BYTES))
    received = returned = 0
    while True:
        try:
            size, sender = sock.recvfrom_into(buffer)
        except BlockingIOError:
            if readable(sys.stdin, seconds=0):
                return received, returned
            continue
        received += 1
        returned += sock.sendto(buffer[:size], sender) == size


if __name__ == "__main__":
    main()
