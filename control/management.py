"""The management socket's server: who may ask, and what answers."""

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import msgspec

from mpnet.control.acceptor import SPARE_DESCRIPTORS, Acceptor
from mpnet.control.log import get_log
from mpnet.control.peer import Peer
from mpnet.errors import MpnetError, ProtocolError
from mpnet.rpc.management import (
    LENGTH,
    MAX_REQUEST_BYTES,
    METHODS,
    Answer,
    Problem,
    Request,
    pack,
)
from mpnet.rpc.unix_socket import bind_unix, release_unix

MAX_CLIENTS = 64
"""Connections at a time; a client too many is told so."""

_FAREWELL_SECONDS = 1.0
_ROOT = 0

Handler = Callable[[Any], Awaitable[Any]]
"""Takes a method's parameters, of the type ``METHODS`` names, and gives its result or raises ``MpnetError``."""

Observer = Callable[[str, float], None]
"""Told each request's method and the seconds it took."""

_leaving: ContextVar[AsyncExitStack] = ContextVar("_leaving")


def when_client_leaves(callback: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
    """For handlers: call something when the client whose request this is has gone, however it ended."""
    _leaving.get().push_async_callback(callback, *arguments)


def bind(path: Path) -> socket.socket:
    """Listen on a management socket's path, for this user alone: who connects waits until it is served.

    Raises:
        MpnetError: the path cannot be bound.
    """
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise MpnetError(
            f"cannot make the folder {path.parent} of the control socket: {error.strerror}",
            "choose another path with --control-socket",
        ) from None
    return bind_unix(path)


class ManagementServer:
    """Answers the management socket.

    Each connection has a task of its own, so one that is idle or has sent half a request keeps nobody waiting.

    Args:
        path: the socket's path; a missing folder of it is made.
        handlers: what answers each method of ``METHODS``.
        observe: told of every request answered.
    """

    def __init__(self, path: Path, handlers: Mapping[str, Handler], observe: Observer) -> None:
        if missing := METHODS.keys() ^ handlers.keys():
            raise ValueError(f"handlers and METHODS differ in {sorted(missing)}")
        self.path = path
        self._handlers = handlers
        self._observe = observe
        self._log = get_log(socket=str(path))
        self._listener: socket.socket | None = None
        self._acceptor = Acceptor(
            self._serve, self._log, MAX_CLIENTS, refuse=self._refuse, spare=SPARE_DESCRIPTORS
        )

    async def start(self, listener: socket.socket | None = None) -> None:
        """Answer from now on.

        Args:
            listener: what ``bind`` gave, to be released with this; bound here where none is given.

        Raises:
            MpnetError: the path cannot be bound.
        """
        self._listener = listener or bind(self.path)
        self._acceptor.start(self._listener)

    async def close(self) -> None:
        """Hang up on every client and remove the socket."""
        await self._acceptor.close()
        if self._listener is not None:
            release_unix(self._listener)

    async def _serve(self, sock: socket.socket) -> None:
        """Answer a client until it leaves."""
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        try:
            _check_peer(sock)
            async with AsyncExitStack() as leaving:
                _leaving.set(leaving)
                while True:
                    await self._answer(reader, writer)
                    await asyncio.sleep(0)  # requests that are there already are no reason to keep others waiting
        except MpnetError as error:
            self._log.warning("management client refused", problem=error.problem)
            writer.write(pack(_refusal(error)))
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass  # it is gone, or this process is stopping: nobody is left to tell
        finally:
            await _let_go(writer)

    def _refuse(self, sock: socket.socket) -> None:
        """Tell a client too many so."""
        error = MpnetError(f"{MAX_CLIENTS} clients are connected already", "close some of them")
        self._log.warning("management client refused", problem=error.problem)
        with suppress(OSError):
            sock.settimeout(0)
            sock.send(pack(_refusal(error)))
        self._acceptor.let_close(sock)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        if length > MAX_REQUEST_BYTES:
            # What follows cannot be told from the next request: the connection ends.
            raise ProtocolError(f"a request of {length} bytes, expected {MAX_REQUEST_BYTES} or fewer")
        data = await reader.readexactly(length)
        writer.write(await self._dispatch(data))
        await writer.drain()

    async def _dispatch(self, data: bytes) -> bytes:
        started = time.perf_counter()
        try:
            request = msgspec.msgpack.decode(data, type=Request)
            params = _read_params(request)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return pack(Answer(error=Problem(f"this is no request: {error}".replace("`", "'"))))
        except MpnetError as error:
            return pack(_refusal(error))
        try:
            return pack(Answer(result=await self._handlers[request.method](params)))
        except MpnetError as error:
            return pack(_refusal(error))
        except Exception:  # noqa: BLE001 - a fault in one method must not take the devices down
            self._log.exception("management request failed", method=request.method)
            return pack(
                Answer(error=Problem(f"{request.method} failed inside mpnet", "see the log of 'mpnet run'"))
            )
        finally:
            self._observe(request.method, time.perf_counter() - started)


async def _let_go(writer: asyncio.StreamWriter) -> None:
    """Close a connection, once its client has taken what was written, or has had time to."""
    writer.close()
    try:
        await asyncio.wait_for(writer.wait_closed(), _FAREWELL_SECONDS)
    except (TimeoutError, OSError):
        writer.transport.abort()


def _read_params(request: Request) -> msgspec.Struct:
    expected = METHODS.get(request.method)
    if expected is None:
        raise ProtocolError(f"unknown method {request.method!r}", f"expected one of {', '.join(METHODS)}")
    try:
        params: msgspec.Struct = msgspec.convert(request.params, expected)
    except msgspec.ValidationError as error:
        wanted = ", ".join(expected.__struct_fields__) or "none"
        raise ProtocolError(
            f"bad parameters of {request.method}: {error}".replace("`", "'"), f"it takes: {wanted}"
        ) from None
    return params


def _refusal(error: MpnetError) -> Answer:
    return Answer(error=Problem(error.problem, error.remedy))


def _check_peer(sock: socket.socket) -> None:
    """Let in the user who runs this process, and root; who connected counts, whoever holds the socket now."""
    peer, owner = Peer.of(sock), os.geteuid()
    if peer.uid not in {owner, _ROOT}:
        raise MpnetError(
            f"process {peer.pid} of user {peer.uid} may not manage the devices of user {owner}",
            f"run the command as user {owner}",
        )
