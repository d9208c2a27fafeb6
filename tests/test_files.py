"""The limit on open files: what devices need, that it is had, and what is said where it cannot be."""

import asyncio
import resource
import socket
import subprocess
from pathlib import Path

import pytest

from mpnet.config.device import DeviceConfig
from mpnet.control import files
from mpnet.control.acceptor import Acceptor
from mpnet.control.log import get_log
from mpnet.errors import MpnetError
from tests.real.running import MPNET

LARGE = [
    DeviceConfig(id=f"net{number}", backend="null", socket=f"/s{number}", queue_pairs=64) for number in range(4)
]


def test_a_device_needs_three_for_each_ring_and_one_for_each_tap_queue() -> None:
    one, two = (
        files.needed([DeviceConfig(id="a", backend="null", socket="/s", queue_pairs=pairs, workers=1)])
        for pairs in (1, 2)
    )
    assert two - one == 2 * 3 + 1
    assert files.needed(LARGE) - files.needed(LARGE[:2]) == 2 * (files._DEVICE + 64 + 3 * 129 + 2 * 64)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1024, 524_288), (files.needed(LARGE) + files._SPARE, 524_288)),
        ((1024, 4096), (4096, 4096)),
        ((100_000, 524_288), None),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None),
        ((1024, resource.RLIM_INFINITY), (files.needed(LARGE) + files._SPARE,) * 2),
    ],
)
def test_the_soft_limit_is_raised_as_far_as_it_may(
    monkeypatch: pytest.MonkeyPatch, before: tuple[int, int], after: tuple[int, int] | None
) -> None:
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: before)
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: calls.append(limits))
    files.raise_limit(LARGE)
    assert calls == ([] if after is None else [after])


def test_a_hard_limit_that_is_too_low_is_told_with_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    least = files.needed(LARGE)
    with pytest.raises(MpnetError, match=rf"need {least} open files, but 1024 are .* LimitNOFILE={least}"):
        files.raise_limit(LARGE)


def test_the_command_says_so_before_it_starts_anything(tmp_path: Path) -> None:
    words = [
        word
        for each in LARGE
        for word in ("--device", f"id={each.id},backend=null,socket={tmp_path}/{each.id},queue-pairs=64")
    ]
    command = ["prlimit", "--nofile=512:512", MPNET, "run", *words]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"mpnet: error: the devices need {files.needed(LARGE)} open files, but 512")


def test_a_socket_that_takes_nobody_is_not_said_to_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def close(sock: socket.socket) -> None:
        sock.close()

    async def reach(path: str, acceptor: Acceptor, *, accepting: bool) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            while acceptor.accepting is not accepting:
                await asyncio.sleep(0.001)

    async def run() -> None:
        path = str(tmp_path / "socket")
        acceptor = Acceptor(close, get_log(), 8)
        assert not acceptor.accepting
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            acceptor.start(listener)
            assert acceptor.accepting
            with monkeypatch.context() as patched:
                patched.setattr(resource, "getrlimit", lambda _: (3, 3))
                await reach(path, acceptor, accepting=False)
            await reach(path, acceptor, accepting=True)
            await acceptor.close()
        assert not acceptor.accepting

    asyncio.run(run())
