"""QEMU's machine protocol, as much of it as a throw-away guest needs: one client, one command at a time."""

import json
import socket
import threading
from typing import Any

from mpnet.errors import MpnetError

_ANSWER_SECONDS = 30.0


class Qmp:
    """A client on a connected stream socket; it is not thread-safe but for `execute`."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._lines = stream.makefile("rb")
        self._greeted = False

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command and give what it returns.

        Raises:
            MpnetError: QEMU refused it, ended, or did not answer.
        """
        with self._lock:
            self._stream.settimeout(_ANSWER_SECONDS)
            if not self._greeted:
                self._read()
                self._exchange("qmp_capabilities", {})
                self._greeted = True
            return self._exchange(command, arguments)

    def close(self) -> None:
        """Close the socket; QEMU goes on."""
        self._lines.close()
        self._stream.close()

    def _exchange(self, command: str, arguments: dict[str, Any]) -> Any:
        request = {"execute": command, "arguments": arguments}
        try:
            self._stream.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise MpnetError(f"QEMU does not take the command {command}: {error}") from error
        while True:
            answer = self._read()
            if "error" in answer:
                raise MpnetError(f"QEMU refused the command {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
            # Anything else is an event, of which none is waited for.

    def _read(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except OSError as error:
            raise MpnetError(f"QEMU's monitor did not answer in {_ANSWER_SECONDS:.0f} s: {error}") from error
        if not line:
            raise MpnetError("QEMU closed its monitor")
        answer: dict[str, Any] = json.loads(line)
        return answer
