"""The loop that takes connections: nothing that happens to one of them ends it."""

import asyncio
import errno
import os
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import structlog

from mpnet.control import acceptor
from mpnet.control.acceptor import SPARE_DESCRIPTORS, Acceptor
from mpnet.control.log import get_log


async def _echo(sock: socket.socket) -> None:
    with sock:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(sock, 100):
            if data == b"fail":
                data.decode("utf-16").encode("ascii")
            await loop.sock_sendall(sock, data)


@asynccontextmanager
async def _accepting(folder: Path, most: int = 8, **more: Any) -> AsyncIterator[str]:
    path = str(folder / "socket")
    accepting = Acceptor(_echo, get_log(), most, **more)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        accepting.start(listener)
        try:
            yield path
        finally:
            await accepting.close()


def _connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(path)
    return sock


async def _ask(sock: socket.socket, data: bytes = b"hello") -> bytes:
    sock.send(data)
    try:
        return await asyncio.to_thread(sock.recv, 100)
    except ConnectionResetError:
        return b""


def test_a_fault_in_serving_one_connection_ends_that_one_only(tmp_path: Path) -> None:
    async def run() -> None:
        async with _accepting(tmp_path) as path:
            with _connect(path) as faulty, _connect(path) as other:
                assert await _ask(faulty, b"fail") == b""
                assert await _ask(other) == b"hello"
            with _connect(path) as later:
                assert await _ask(later) == b"hello"

    with structlog.testing.capture_logs() as lines:
        asyncio.run(run())
    assert [line["event"] for line in lines] == ["task failed"]


def test_descriptors_that_run_out_delay_a_connection_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "_PAUSE_SECONDS", 0.01)

    async def run() -> None:
        async with _accepting(tmp_path) as path:
            before = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
            taken: list[int] = []
            sock = socket.socket(socket.AF_UNIX)
            try:
                with suppress(OSError):
                    while True:
                        taken.append(os.dup(sock.fileno()))
                sock.setblocking(False)
                sock.connect(path)
                for _ in range(5):
                    await asyncio.sleep(0.01)
            finally:
                for fd in taken:
                    os.close(fd)
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
            with sock:
                sock.settimeout(60)
                assert await _ask(sock) == b"hello"

    with structlog.testing.capture_logs() as lines:
        asyncio.run(run())
    assert {(line["event"], line.get("problem")) for line in lines} == {
        ("no connection can be accepted", os.strerror(errno.EMFILE))
    }


def test_an_exception_that_nobody_thought_of_does_not_end_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpnet.control.tasks._PAUSE_SECONDS", 0)
    faults = [ZeroDivisionError(), RuntimeError()]
    take = Acceptor._take

    def faulty(self: Acceptor, sock: socket.socket) -> None:
        if faults:
            sock.close()
            raise faults.pop()
        take(self, sock)

    monkeypatch.setattr(Acceptor, "_take", faulty)

    async def run() -> None:
        async with _accepting(tmp_path) as path:
            for expected in (b"", b"", b"hello"):
                with _connect(path) as sock:
                    assert await _ask(sock) == expected

    with structlog.testing.capture_logs() as lines:
        asyncio.run(run())
    assert len(lines) == 2


def test_a_queue_full_of_connections_keeps_nobody_waiting(tmp_path: Path) -> None:
    taken = 0

    async def serve(sock: socket.socket) -> None:
        nonlocal taken
        sock.close()
        taken += 1

    async def run() -> None:
        accepting = Acceptor(serve, get_log(), 100)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "socket"))
            listener.listen(64)
            clients = [_connect(str(tmp_path / "socket")) for _ in range(50)]
            accepting.start(listener)
            before, most = 0, 0
            while before < 50:
                await asyncio.sleep(0)
                most, before = max(most, taken - before), taken
            assert most == 1
            await accepting.close()
            for client in clients:
                client.close()

    asyncio.run(run())


def test_one_too_many_takes_the_place_of_the_oldest(tmp_path: Path) -> None:
    async def run() -> None:
        async with _accepting(tmp_path, most=2) as path:
            with _connect(path) as first, _connect(path) as second, _connect(path) as third:
                assert await asyncio.to_thread(first.recv, 1) == b""
                assert await _ask(second) == await _ask(third) == b"hello"

    asyncio.run(run())


def test_one_too_many_is_refused_where_those_there_are_to_stay(tmp_path: Path) -> None:
    async def run() -> None:
        async with _accepting(tmp_path, most=1, refuse=socket.socket.close) as path:
            with _connect(path) as first, _connect(path) as second:
                assert await asyncio.to_thread(second.recv, 1) == b""
                assert await _ask(first) == b"hello"

    asyncio.run(run())


@pytest.mark.parametrize(("spare", "expected"), [(0, b"hello"), (SPARE_DESCRIPTORS, b"")])
def test_descriptors_are_kept_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spare: int, expected: bytes
) -> None:
    async def run() -> None:
        async with _accepting(tmp_path, spare=spare) as path:
            with _connect(path) as sock:
                lowest = os.dup(sock.fileno())
                os.close(lowest)
                monkeypatch.setattr(resource, "getrlimit", lambda _: (lowest + 10, lowest + 10))
                assert await _ask(sock) == expected

    asyncio.run(run())
