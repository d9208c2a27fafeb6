"""The management socket: what commands ask the control process, and how.

A Unix stream socket carries messages in both directions, each a 4-byte big-endian length and that many bytes of
msgpack. A request is ``{"method", "params"}``; its answer, in the order of the requests, is ``{"result"}`` or
``{"error": {"problem", "remedy"}}``.
"""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self

import msgspec

from mpnet.errors import MpnetError, ProtocolError

MAX_REQUEST_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""Room for the descriptions of some thousand rings."""

LENGTH = struct.Struct("!I")
_CREDENTIALS = struct.Struct("3i")
"""struct ucred: process, user, group."""

_SYSTEM_FOLDER = Path("/run")
_TIMEOUT_SECONDS = 30.0
"""For a whole answer: moving queue pairs waits for workers to start."""


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """One call."""

    method: str
    params: dict[str, Any] = {}


class Problem(msgspec.Struct):
    """An ``MpnetError`` on its way to the command that prints it."""

    problem: str
    remedy: str = ""


class Answer(msgspec.Struct, omit_defaults=True):
    """The result of a call, or why there is none."""

    result: Any = None
    error: Problem | None = None


class NoParams(msgspec.Struct, forbid_unknown_fields=True):
    """Parameters of a method that takes none."""


class DeviceParams(msgspec.Struct, forbid_unknown_fields=True):
    """Parameters of ``device.show`` and ``device.remove``."""

    device: str


class SetParams(msgspec.Struct, forbid_unknown_fields=True):
    """Parameters of ``device.set``: change one property of a device."""

    device: str
    name: str
    value: str


class AddParams(msgspec.Struct, forbid_unknown_fields=True):
    """Parameters of ``device.add``: a device's settings by the keys that users write."""

    config: dict[str, Any]


class TraceParams(msgspec.Struct, forbid_unknown_fields=True):
    """Parameters of ``trace.bursts``: trace a device's bursts until this connection is closed."""

    device: str


class CaptureParams(msgspec.Struct, forbid_unknown_fields=True):
    """Parameters of ``capture.start``: capture a device's frames until this connection is closed.

    Attributes:
        device: whose.
        queue: one queue pair; None for all.
        direction: "rx", "tx" or "both".
        snaplen: bytes of a frame at most.
        lane_bytes: of room for each queue pair.
    """

    device: str
    queue: int | None
    direction: Literal["rx", "tx", "both"]
    snaplen: int
    lane_bytes: int


class ScaleParams(msgspec.Struct, forbid_unknown_fields=True):
    """Parameters of ``worker.scale``: serve a device's queue pairs with ``count`` processes."""

    device: str
    count: int


METHODS: Mapping[str, type[msgspec.Struct]] = MappingProxyType(
    {
        "control.show": NoParams,
        "control.reload": NoParams,
        "device.list": NoParams,
        "device.show": DeviceParams,
        "device.set": SetParams,
        "device.add": AddParams,
        "device.remove": DeviceParams,
        "worker.list": NoParams,
        "worker.scale": ScaleParams,
        "trace.bursts": TraceParams,
        "capture.start": CaptureParams,
    }
)
"""Every method and the type of its parameters."""


class NobodyListensError(MpnetError):
    """There is no control process at a socket."""


def default_socket_path() -> Path:
    """Where the management socket is unless a user says otherwise.

    ``MPNET_CONTROL_SOCKET``; else below ``/run`` for root and below ``XDG_RUNTIME_DIR`` for others.

    Raises:
        MpnetError: there is no such folder.
    """
    if chosen := os.environ.get("MPNET_CONTROL_SOCKET"):
        return Path(chosen)
    # The root of a user namespace owns nothing outside it.
    if os.geteuid() == 0 and os.access(_SYSTEM_FOLDER, os.W_OK):
        return _SYSTEM_FOLDER / "mpnet" / "control.sock"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if not runtime:
        raise MpnetError(
            "XDG_RUNTIME_DIR is not set, so there is no place for the control socket",
            "give one with --control-socket or MPNET_CONTROL_SOCKET",
        )
    return Path(runtime) / "mpnet" / "control.sock"


class Client:
    """A connection to the control process, one call at a time.

    Args:
        path: the management socket.
        timeout: seconds an answer may take.

    Raises:
        MpnetError: nobody listens there.
    """

    def __init__(self, path: Path, timeout: float = _TIMEOUT_SECONDS) -> None:
        self._path = path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(timeout)
        try:
            self._sock.connect(str(path))
        except OSError as error:
            self._sock.close()
            raise _connect_error(path, error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def fileno(self) -> int:
        """The connection's file descriptor: it can be read when control has hung up."""
        return self._sock.fileno()

    @property
    def peer_uid(self) -> int:
        """The user who runs the control process."""
        credentials = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(credentials)[1])

    def call(self, method: str, **params: Any) -> Any:
        """Call a method and give its result, of msgpack's types.

        Raises:
            MpnetError: what the control process answered, or that it gave no answer.
        """
        try:
            # A server that refuses this user has hung up already; why, is there to be read.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._sock.sendall(pack(Request(method, params)))
            (length,) = LENGTH.unpack(self._receive(LENGTH.size))
            if length > MAX_ANSWER_BYTES:
                raise ProtocolError(
                    f"{self._path} announces {length} bytes, expected {MAX_ANSWER_BYTES} or fewer"
                )
            answer = msgspec.msgpack.decode(self._receive(length), type=Answer)
        except TimeoutError:
            waited = f"{self._sock.gettimeout():g} s"
            raise MpnetError(
                f"the control process at {self._path} gave no answer to {method} in {waited}",
                "while it starts it gives none yet: its log says how far it is",
            ) from None
        except (OSError, EOFError):
            raise MpnetError(
                f"the control process at {self._path} closed the connection", "see its log"
            ) from None
        except msgspec.DecodeError as error:
            raise ProtocolError(f"{self._path} does not speak mpnet's management protocol: {error}") from None
        if answer.error is not None:
            raise MpnetError(answer.error.problem, answer.error.remedy)
        return answer.result

    def _receive(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            chunk = self._sock.recv(size - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return bytes(data)


def pack(message: Request | Answer) -> bytes:
    """Give a message with its length before it."""
    data = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(data)) + data


def _connect_error(path: Path, error: OSError) -> MpnetError:
    if error.errno in {errno.ENOENT, errno.ECONNREFUSED}:
        return NobodyListensError(
            f"no control process listens at {path}", "start one with 'mpnet run', or name its --control-socket"
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        return MpnetError(
            f"no permission to ask the control process at {path}, of {_owner(path)}",
            "run the command as that user, or with sudo",
        )
    return MpnetError(f"cannot connect to {path}: {error.strerror or error}")


def _owner(path: Path) -> str:
    try:
        return f"user {path.owner()}"
    except (OSError, KeyError):
        return "another user"
