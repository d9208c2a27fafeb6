"""Descriptors that a front-end chose to do harm with: refused by kind, and nobody else waits for their end."""

import asyncio
import fcntl
import os
import socket
import struct
import termios
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from mpnet.control import descriptors
from mpnet.control.acceptor import Acceptor
from mpnet.control.descriptors import admit
from mpnet.control.launcher import Launcher
from mpnet.control.log import get_log
from mpnet.errors import ProtocolError
from mpnet.vhost_user.effects import MemoryRegion
from mpnet.vhost_user.messages import HEADER, MAX_FDS, Message, Request
from mpnet.virtio.features import Feature, mask
from tests.control_harness import Guest, Script, eventually, fake_workers, served
from tests.real.netns import network_namespace

FEATURES = mask(Feature.VERSION_1, Feature.MRG_RXBUF, Feature.MQ, Feature.CSUM)
_HOUR = 3600
_EVENTS = (Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR)


@pytest.fixture
def scripted() -> Iterator[tuple[Script, Launcher]]:
    with network_namespace(), fake_workers() as both:
        yield both


@contextmanager
def lingering() -> Iterator[tuple[int, socket.socket]]:
    """A TCP connection whose close waits an hour for its reader; the reader's own close ends the wait."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        writer = socket.create_connection(server.getsockname())
        reader, _ = server.accept()
    writer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, _HOUR))
    writer.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            writer.send(bytes(1 << 16))
    writer.setblocking(True)
    with reader:
        yield writer.detach(), reader


def say(sock: socket.socket, request: Request, fd: int) -> None:
    """Send a message with a descriptor of which this process keeps none."""
    socket.send_fds(sock, [Message(request).pack()], [fd])
    os.close(fd)


def unread(sock: socket.socket) -> int:
    """Bytes that the other end has not taken yet."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), "little")


def test_connections_whose_close_waits_hold_few_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "MOST_CLOSING", 2)
    taken = 0

    async def run() -> None:
        async def serve(sock: socket.socket) -> None:
            nonlocal taken
            taken += 1
            accepting.let_close(sock)

        accepting = Acceptor(serve, get_log(), 1)
        with socket.socket(socket.AF_UNIX) as listener, ExitStack() as stack:
            listener.bind(str(tmp_path / "socket"))
            listener.listen(16)
            readers = []
            for _ in range(8):
                fd, reader = stack.enter_context(lingering())
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.connect(str(tmp_path / "socket"))
                say(client, Request.GET_FEATURES, fd)
                readers.append(reader)
            before = threading.active_count()
            accepting.start(listener)
            await eventually(lambda: not accepting.accepting, "it takes no more")
            for _ in range(100):
                await asyncio.sleep(0)
            assert taken == threading.active_count() - before <= 3
            for reader in readers:
                reader.close()
            await eventually(lambda: taken == 8, "it goes on")
            await accepting.close()

    with network_namespace():
        asyncio.run(run())


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_close_that_waits_keeps_only_its_own_front_end_waiting(
    tmp_path: Path, scripted: tuple[Script, Launcher]
) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted) as device:
            guest = Guest(device.config.socket)
            with lingering() as (fd, reader):
                say(guest.sock, Request.GET_FEATURES, fd)
                await eventually(lambda: unread(guest.sock) == 0, "control has the message")
                await device.set("mtu", 1400)  # and is there for others
                reader.close()
                header = await asyncio.to_thread(guest._read, HEADER.size)
            assert HEADER.unpack(header)[0] == Request.GET_FEATURES
            guest.close()

    asyncio.run(run())


def test_a_device_is_stopped_whatever_its_front_end_left_to_be_closed(
    tmp_path: Path, scripted: tuple[Script, Launcher]
) -> None:
    async def run() -> None:
        with lingering() as (fd, _):
            async with served(tmp_path, *scripted) as device:
                guest = Guest(device.config.socket)
                say(guest.sock, Request.GET_FEATURES, fd)
                await eventually(lambda: unread(guest.sock) == 0, "control has the message")
            guest.close()

    asyncio.run(run())


@pytest.mark.parametrize("number", [0, 1])
def test_what_is_queued_in_a_connection_is_closed_where_nobody_waits(
    tmp_path: Path, scripted: tuple[Script, Launcher], number: int
) -> None:
    """Of a front-end that is served and broke the protocol, and of a second one, which is refused unheard."""

    async def run() -> None:
        async with served(tmp_path, *scripted) as device:
            guests = [Guest(device.config.socket)]
            await guests[0].call(guests[0].front_end.call(Request.GET_FEATURES))
            guests.append(Guest(device.config.socket))
            with lingering() as (fd, reader):
                if number == 0:
                    guests[0].sock.send(HEADER.pack(1, 0, 0))
                guests[number].sock.settimeout(0)
                say(guests[number].sock, Request.GET_FEATURES, fd)
                await eventually(lambda: hung_up(guests[number].sock), "it is turned away")
                await device.set("mtu", 1400)
                reader.close()
            for guest in guests:
                guest.close()
            again = Guest(device.config.socket)
            await again.attach(FEATURES)
            again.close()

    def hung_up(sock: socket.socket) -> bool:
        try:
            return sock.recv(4096) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    asyncio.run(run())


@contextmanager
def descriptor(kind: str, folder: Path) -> Iterator[int]:
    pipe: tuple[int, ...] = ()
    if kind == "pipe":
        pipe = os.pipe()
        fd = pipe[1]
    elif kind == "socket":
        fd = socket.socket().detach()
    elif kind == "unix":
        fd = socket.socket(socket.AF_UNIX).detach()
    elif kind == "device":
        fd = os.open("/dev/zero", os.O_RDWR)
    elif kind == "folder":
        fd = os.open(folder, os.O_RDONLY)
    elif kind == "memfd":
        fd = os.memfd_create("guest")
    elif kind == "proc":
        fd = os.open("/proc/self/comm", os.O_RDWR)
    else:
        fd = os.eventfd(0)
    try:
        yield fd
    finally:
        for end in {fd, *pipe}:
            os.close(end)


KINDS = ("pipe", "socket", "unix", "device", "folder", "memfd", "proc", "eventfd")
TAKEN = {
    Request.SET_VRING_KICK: {"eventfd"},
    Request.SET_VRING_CALL: {"eventfd", "pipe", "unix"},
    Request.SET_VRING_ERR: {"eventfd", "pipe", "unix"},
    Request.SET_MEM_TABLE: {"memfd"},
    Request.ADD_MEM_REG: {"memfd"},
    Request.SET_BACKEND_REQ_FD: {"unix", "pipe"},
    Request.GET_FEATURES: {"pipe", "memfd", "eventfd"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("request_", TAKEN)
def test_descriptors_are_taken_by_kind(tmp_path: Path, request_: Request, kind: str) -> None:
    with descriptor(kind, tmp_path) as fd:
        passed = os.dup(fd)
        message, problem = asyncio.run(admit(Message(request_, fds=(passed,)), asyncio.Event()))
        if kind in TAKEN[request_]:
            assert (message.fds, problem) == ((passed,), "")
            os.close(passed)
            return
    assert message.fds == ()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(passed)
    assert bool(problem) == (request_ != Request.GET_FEATURES), "what nobody asked for is closed without a word"
    if problem:
        assert ", expected " in problem


@pytest.mark.parametrize("request_", [Request.SET_VRING_CALL, Request.SET_VRING_ERR, Request.SET_BACKEND_REQ_FD])
def test_nothing_that_blocks_is_written_to(request_: Request) -> None:
    """As User-Mode Linux passes it: a pipe, which takes so much and then waits."""
    reading, writing = os.pipe()
    asyncio.run(admit(Message(request_, fds=(writing,)), asyncio.Event()))
    room = fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)
    assert os.write(writing, bytes(room)) == room
    with pytest.raises(BlockingIOError):
        os.write(writing, bytes(8))
    os.close(reading)
    os.close(writing)


def test_a_descriptor_of_the_wrong_kind_is_refused_with_its_name(
    tmp_path: Path, scripted: tuple[Script, Launcher]
) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted) as device:
            guest = Guest(device.config.socket)
            await guest.attach(FEATURES)
            with descriptor("folder", tmp_path) as fd, pytest.raises(ProtocolError, match="refused"):
                await guest.call(guest.front_end.set_vring_fd(Request.SET_VRING_KICK, 0, fd))
            problem = device.backend.log[-1].outcome
            assert str(tmp_path) in problem
            assert "expected an eventfd" in problem
            await guest.start(0, 1)
            guest.close()

    asyncio.run(run())


def test_a_session_is_left_whole_after_a_request_that_failed_half_way(
    tmp_path: Path, scripted: tuple[Script, Launcher]
) -> None:
    """A table that stops ring 0, starts ring 1 again, and cannot be mapped."""

    async def run() -> None:
        async with served(tmp_path, *scripted) as device:
            guest = Guest(device.config.socket)
            await guest.run(guest.front_end.negotiate(FEATURES))
            low = MemoryRegion(0, 0x4000, 0x10000000, 0, guest.memory)
            high = MemoryRegion(1 << 32, 0x4000, 0x10004000, 0x4000, guest.memory)
            await guest.call(guest.front_end.set_mem_table([low, high]))
            before = open_files()
            await guest.start(0, 1)
            await guest.call(guest.front_end.rem_mem_reg(high))
            scripted[0].add("0 SetMemory refuse")
            with pytest.raises((ProtocolError, ConnectionError)):
                await guest.call(guest.front_end.set_mem_table([high]))
            await eventually(lambda: device.peer is None, "the session is over")
            desired = device.supervisor.desired
            assert (desired.rings, desired.regions, device.tap.attached) == ({}, (), frozenset())
            assert scripted[0].told("SetMemory")[-1]["regions"] == []
            guest.close()
            await eventually(lambda: open_files() <= before - 4, "its descriptors are closed")
            again = Guest(device.config.socket)
            await again.attach(FEATURES)
            await again.start(0, 1)
            again.close()

    asyncio.run(run())


def test_a_session_that_cannot_be_left_is_left_as_far_as_it_can(
    tmp_path: Path, scripted: tuple[Script, Launcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted) as device:
            guest = Guest(device.config.socket)
            await guest.attach(FEATURES)
            await guest.start(0, 1)
            stops = []

            async def fail(index: int) -> None:
                stops.append(index)
                raise RuntimeError("it does not stop")

            monkeypatch.setattr(device._rings, "stop", fail)
            guest.close()
            await eventually(lambda: device.peer is None, "the device is free")
            await eventually(lambda: scripted[0].told("SetMemory")[-1]["regions"] == [], "memory is unmapped")
            assert stops == [0, 1]
            monkeypatch.undo()

    asyncio.run(run())


def test_more_descriptors_than_a_message_may_bring_end_the_session_and_wait_for_nobody(
    tmp_path: Path, scripted: tuple[Script, Launcher]
) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted) as device:
            guest = Guest(device.config.socket)
            with lingering() as (fd, reader):
                socket.send_fds(guest.sock, [Message(Request.GET_FEATURES).pack()], [fd] * (MAX_FDS + 1))
                os.close(fd)
                await eventually(lambda: unread(guest.sock) == 0, "control has the message")
                await device.set("mtu", 1400)
                reader.close()
            assert await asyncio.to_thread(guest.sock.recv, 1) == b""
            guest.close()

    asyncio.run(run())
