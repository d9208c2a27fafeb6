"""Who may have a device, and that nobody who wants it keeps others from it or control from its work."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpnet.control import endpoint, session
from mpnet.control.budget import Budget
from mpnet.control.device import Device
from mpnet.control.launcher import Launcher
from mpnet.control.peer import Peer, uids
from mpnet.control.session import Session
from mpnet.errors import ConfigError
from mpnet.vhost_user.messages import HEADER, VERSION, Request
from tests.control_harness import Guest, Script, eventually, fake_workers, served
from tests.real.netns import network_namespace

SET_OWNER = HEADER.pack(Request.SET_OWNER, VERSION, 0)


@pytest.fixture
def scripted() -> Iterator[tuple[Script, Launcher]]:
    with network_namespace(), fake_workers() as both:
        yield both


class Seen:
    """Who the kernel says connects: set it before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pid, self.uid, self.looks = 1000, 1000, 0
        monkeypatch.setattr(Peer, "of", self._look)

    def _look(self, _sock: socket.socket) -> Peer:
        self.looks += 1
        return Peer(self.pid, self.uid, "somebody")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    return Seen(monkeypatch)


def _connect(device: Device) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(60)
    sock.connect(device.config.socket)
    return sock


async def _attach(device: Device) -> None:
    guest = Guest(device.config.socket)
    await guest.attach(1 << 32)
    guest.close()


async def _hung_up(sock: socket.socket) -> None:
    assert await asyncio.to_thread(sock.recv, 1) == b""
    sock.close()


def test_who_says_nothing_holds_nobody_up(tmp_path: Path, scripted: tuple[Script, Launcher]) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted) as device:
            silent = [_connect(device) for _ in range(10)]
            await _attach(device)
            assert device.segment.header.connections == 1
            for sock in silent:
                sock.close()

    asyncio.run(run())


def test_who_says_nothing_is_hung_up_on(
    tmp_path: Path, scripted: tuple[Script, Launcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "SILENT_SECONDS", 0.01)

    async def run() -> None:
        async with served(tmp_path, *scripted) as device:
            await _hung_up(_connect(device))
            assert device.segment.header.connections == 0

    asyncio.run(run())


def test_any_number_that_say_nothing_take_a_bounded_number_of_descriptors(
    tmp_path: Path, scripted: tuple[Script, Launcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "MOST_WAITING", 4)

    async def run() -> None:
        async with served(tmp_path, *scripted) as device:
            silent = [_connect(device) for _ in range(10)]
            for sock in silent[:6]:
                await _hung_up(sock)
            await _attach(device)
            for sock in silent[6:]:
                sock.close()

    asyncio.run(run())


def test_a_first_message_that_is_never_finished_ends_the_session(
    tmp_path: Path, scripted: tuple[Script, Launcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_MESSAGE_SECONDS", 0.01)

    async def run() -> None:
        async with served(tmp_path, *scripted) as device:
            half = _connect(device)
            half.send(SET_OWNER[:5])
            await _hung_up(half)
            whole = _connect(device)
            whole.send(SET_OWNER + SET_OWNER[:5])
            await _hung_up(whole)
            patient = Guest(device.config.socket)
            await patient.attach(1 << 32)
            await asyncio.sleep(0.05)  # as a guest in its firmware: nothing is awaited of it
            await patient.start(0, 1)
            patient.close()

    asyncio.run(run())


def test_who_came_for_nothing_is_made_to_wait_and_others_are_not(
    tmp_path: Path, scripted: tuple[Script, Launcher], monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    monkeypatch.setattr(endpoint, "_FIRST_PAUSE_SECONDS", 3600.0)
    monkeypatch.setattr(endpoint, "_LONGEST_PAUSE_SECONDS", 3600.0)

    async def run() -> None:
        async with served(tmp_path, *scripted) as device:
            for _ in range(20):
                sock = _connect(device)
                sock.send(SET_OWNER)
                sock.close()
            await eventually(lambda: seen.looks > 20, "all were let in, and one had its session")
            await eventually(lambda: device.peer is None, "it has left")
            assert device.segment.header.connections == 1
            seen.pid += 1
            await _attach(device)
            assert device.segment.header.connections == 2

    asyncio.run(run())


def test_who_has_left_while_he_waited_gets_no_session(
    tmp_path: Path, scripted: tuple[Script, Launcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "_HANDOVER_SECONDS", 3600.0)

    async def run() -> None:
        async with served(tmp_path, *scripted) as device:
            first = Guest(device.config.socket)
            await first.attach(1 << 32)
            for _ in range(20):
                sock = _connect(device)
                sock.send(SET_OWNER)
                sock.close()
            second = Guest(device.config.socket)
            attaching = asyncio.create_task(second.attach(1 << 32))
            await asyncio.sleep(0.01)
            first.close()
            await attaching
            assert device.segment.header.connections == 2
            second.close()

    asyncio.run(run())


def test_a_stream_of_messages_lets_everybody_else_have_a_turn(
    tmp_path: Path, scripted: tuple[Script, Launcher]
) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted) as device:
            sock = _connect(device)
            messages = device.segment.header.messages
            sock.send(SET_OWNER * 500)
            before, longest = 0, 0
            while before < 500:
                await asyncio.sleep(0)
                answered = int(messages.sum())
                longest, before = max(longest, answered - before), answered
            assert longest == 1
            sock.close()

    asyncio.run(run())


def test_who_has_used_his_share_waits_and_can_still_be_hung_up_on(
    tmp_path: Path, scripted: tuple[Script, Launcher]
) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted) as device:
            budget = Budget()
            budget.spend(1e6)
            theirs, ours = socket.socketpair()
            ours.settimeout(0)
            one = Session(device, ours, budget)
            running = asyncio.create_task(one.run())
            theirs.send(SET_OWNER * 2)
            await eventually(lambda: device.segment.header.messages.sum() == 1, "the first is answered")
            for _ in range(100):
                await asyncio.sleep(0)
            assert device.segment.header.messages.sum() == 1
            one.hang_up()
            await running
            theirs.close()

    asyncio.run(run())


def test_what_was_sent_before_is_not_answered_once_the_device_stops(
    tmp_path: Path, scripted: tuple[Script, Launcher]
) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted) as device:
            theirs, ours = socket.socketpair()
            ours.settimeout(0)
            one = Session(device, ours)
            theirs.send(SET_OWNER * 500)
            running = asyncio.create_task(one.run())
            await eventually(lambda: device.segment.header.messages.sum() > 0, "it begins")
            answered = device.segment.header.messages.sum()
            one.hang_up()
            await running
            assert device.segment.header.messages.sum() <= answered + 1
            theirs.close()

    asyncio.run(run())


def test_what_a_front_end_uses_of_control_is_noted_beyond_its_session(
    tmp_path: Path, scripted: tuple[Script, Launcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with served(tmp_path, *scripted) as device:
            for expected in (1, 2):
                spent: list[float] = []
                monkeypatch.setattr(device.budget, "spend", spent.append)
                await _attach(device)
                await eventually(lambda: device.peer is None, "it has left")
                assert device.segment.header.connections == expected
                assert len(spent) > 5
                assert sum(spent) > 0

    asyncio.run(run())


@pytest.mark.parametrize(("uid", "served_"), [(4711, True), (0, True), (4712, False)])
def test_a_device_is_for_whom_it_is_said_to_be(
    tmp_path: Path, scripted: tuple[Script, Launcher], seen: Seen, uid: int, served_: bool
) -> None:
    seen.uid = uid

    async def run() -> None:
        async with served(tmp_path, *scripted, users=("nobody", "4711")) as device:
            if served_:
                await _attach(device)
            else:
                await _hung_up(_connect(device))
            assert device.segment.header.connections == served_

    asyncio.run(run())


def test_a_user_that_does_not_exist_is_an_error() -> None:
    assert uids(["root", "4711"]) == {0, 4711}
    with pytest.raises(ConfigError, match="there is no user 'nobody-at-all'"):
        uids(["nobody-at-all"])
