"""The management socket's server: who may ask, and what answers."""

import asyncio
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from mpnet.errors import MpnetError, ProtocolError
from mpnet.rpc.management import (
    LENGTH,
    MAX_REQUEST_BYTES,
    METHODS,
    Answer,
    DeviceParams,
    NoParams,
    Problem,
    Request,
    ScaleParams,
    SetParams,
    pack,
)
from mpnet.rpc.unix_socket import bind_unix, release_unix

MAX_CLIENTS = 64
"""Connections at a time; a client too many is told so."""

_UCRED = struct.Struct("3i")
"""struct ucred of SO_PEERCRED: pid, uid, gid."""

_ROOT = 0

Handler = Callable[[Any], Awaitable[Any]]
"""Takes a method's parameters, of the type ``METHODS`` names, and gives its result or raises ``MpnetError``."""

Observer = Callable[[str, float], None]
"""Told each request's method and the seconds it took."""


class ManagedDevice(Protocol):
    """What management asks of a device."""

    def describe(self) -> dict[str, Any]:
        """The device's state, in msgpack's types; its ``workers`` are one dictionary each."""

    async def set(self, name: str, value: str) -> None:
        """Change a property, or raise ``MpnetError``."""

    async def scale(self, count: int) -> None:
        """Serve the queue pairs with ``count`` processes, or raise ``MpnetError``."""


class Managed(Protocol):
    """What management asks of the control process."""

    @property
    def devices(self) -> Mapping[str, ManagedDevice]:
        """The devices by id."""

    def describe(self) -> dict[str, Any]:
        """The control process's own state, in msgpack's types."""


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
        self._log = structlog.get_logger().bind(socket=str(path))
        self._listener: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Bind the socket, for this user alone, and answer from now on.

        Raises:
            MpnetError: the path cannot be bound.
        """
        try:
            self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise MpnetError(
                f"cannot make the folder {self.path.parent} of the control socket: {error.strerror}",
                "choose another path with --control-socket",
            ) from None
        self._listener = bind_unix(self.path)
        self._server = await asyncio.start_unix_server(self._accept, sock=self._listener.dup())

    async def close(self) -> None:
        """Hang up on every client and remove the socket."""
        if self._server is not None:
            self._server.close()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
        if self._listener is not None:
            release_unix(self._listener)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            _check_peer(writer.get_extra_info("socket"))
            if len(self._clients) > MAX_CLIENTS:
                raise MpnetError(f"{MAX_CLIENTS} clients are connected already", "close some of them")
            while True:
                await self._answer(reader, writer)
        except MpnetError as error:
            self._log.warning("management client refused", problem=error.problem)
            writer.write(pack(_refusal(error)))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # it is gone, or this process is stopping: nobody is left to tell
        finally:
            self._clients.discard(task)
            writer.close()

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


def make_handlers(control: Managed) -> dict[str, Handler]:
    """Give what answers each method of ``METHODS`` for a control process."""

    def find(name: str) -> ManagedDevice:
        if name not in control.devices:
            known = ", ".join(control.devices) or "none"
            raise MpnetError(f"there is no device {name!r}, expected one of: {known}", "see 'mpnet device list'")
        return control.devices[name]

    async def show_control(_: NoParams) -> Any:
        return control.describe()

    async def list_devices(_: NoParams) -> Any:
        return [device.describe() for device in control.devices.values()]

    async def show_device(params: DeviceParams) -> Any:
        return find(params.device).describe()

    async def set_device(params: SetParams) -> Any:
        device = find(params.device)
        await device.set(params.name, params.value)
        return device.describe()

    async def list_workers(_: NoParams) -> Any:
        return [
            {"device": name, **worker}
            for name, device in control.devices.items()
            for worker in device.describe()["workers"]
        ]

    async def scale_workers(params: ScaleParams) -> Any:
        device = find(params.device)
        await device.scale(params.count)
        return device.describe()

    return {
        "control.show": show_control,
        "device.list": list_devices,
        "device.show": show_device,
        "device.set": set_device,
        "worker.list": list_workers,
        "worker.scale": scale_workers,
    }


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
    """Let in the user who runs this process, and root (SO_PEERCRED: who connected, whoever holds it now)."""
    pid, uid, _ = _peer_credentials(sock)
    owner = os.geteuid()
    if uid not in {owner, _ROOT}:
        raise MpnetError(
            f"process {pid} of user {uid} may not manage the devices of user {owner}",
            f"run the command as user {owner}",
        )


def _peer_credentials(sock: socket.socket) -> tuple[int, int, int]:
    """Process, user and group that connected."""
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid, gid
