"""The fork server: what workers get from it, how their ends are told, and when it ends itself."""

import asyncio
import contextlib
import ctypes
import errno
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from mpnet.control.compilation import Progress, Told
from mpnet.control.fork_server import ForkServer, Process
from mpnet.control.launcher import WARM, Launcher
from mpnet.errors import MpnetError
from mpnet.segment.layout import Code

PATIENCE = 240.0
"""Seconds: a limit for what hangs."""
ROOT = Path(__file__).parent.parent


def tell(_device: str, _slot: int, sock: socket.socket, _segment: int) -> None:
    """A worker that sends whether the C library has only ever seen one thread: 1 or 0."""
    sock.send(ctypes.c_char.in_dll(ctypes.CDLL(None), "__libc_single_threaded").value)


def behave(device: str, slot: int, sock: socket.socket, segment_fd: int) -> None:
    """A worker that sends what it was told and holds, and ends as its device's name says."""
    handlers = [signal.getsignal(number) == signal.SIG_DFL for number in (signal.SIGTERM, signal.SIGCHLD)]
    sock.send(repr((device, slot, os.read(segment_fd, 100), sorted(_open_fds()), all(handlers))).encode())
    if device == "wait":
        sock.recv(1)
    if device == "raise":
        raise RuntimeError
    os._exit(slot)


def _open_fds() -> set[str]:
    """What is open beside the three of every process, and beside the folder that is being read."""
    links = [link for link in Path("/proc/self/fd").iterdir() if int(link.name) > 2]
    return {str(link.readlink()).partition(":")[0] for link in links if link.is_symlink()}


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


async def _warm() -> int:
    launcher = Launcher("tests.test_launcher:tell", (WARM,), mode="1")
    launched = await launcher.launch("test", 0, 0)
    assert await launched.process.status == 0
    os.close(launched.process.pidfd)
    (answer,) = os.read(launched.channel.fileno(), 1)
    launched.channel.close()
    launcher.close()
    return answer


def ask() -> int:
    """What ``tell`` says in a worker of a server that is as warm as the real one."""
    return asyncio.run(_warm())


@pytest.mark.compiled
def test_no_thread_makes_a_workers_system_calls_slower() -> None:
    # In a process of its own, so that the environment is one that a user has.
    environment = {name: value for name, value in os.environ.items() if not name.endswith("NUM_THREADS")}
    command = [sys.executable, "-c", "from tests.test_launcher import ask; print(ask())"]
    answer = subprocess.run(command, env=environment, timeout=PATIENCE, check=True, stdout=subprocess.PIPE)
    assert answer.stdout.splitlines()[-1] == b"1"  # behind the log, where code is compiled first


@contextlib.asynccontextmanager
async def _server() -> AsyncIterator[ForkServer]:
    server = ForkServer("tests.test_launcher:behave")
    server.start()
    try:
        yield server
    finally:
        server.close()


async def _fork(server: ForkServer, device: str, slot: int = 0) -> tuple[Process, socket.socket]:
    """A worker, and our end of its channel."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(PATIENCE)
    segment = os.memfd_create("segment")
    os.pwrite(segment, b"shared", 0)
    try:
        return await server.fork(device, slot, theirs.fileno(), segment), ours
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
        os.close(segment)


def _run(test: Callable[[ForkServer], Awaitable[None]]) -> None:
    async def run() -> None:
        async with _server() as server:
            await asyncio.wait_for(test(server), PATIENCE)

    asyncio.run(run())


def test_a_worker_gets_its_descriptors_and_nothing_of_the_server() -> None:
    async def test(server: ForkServer) -> None:
        process, channel = await _fork(server, "net0", 3)
        with channel:
            told = eval(channel.recv(1000))  # noqa: S307 - ours
        assert told == ("net0", 3, b"shared", ["/memfd", "socket"], True)
        assert await process.status == 3
        os.close(process.pidfd)

    _run(test)


@pytest.mark.parametrize(("device", "slot", "status"), [("net0", 0, 0), ("net0", 7, 7), ("raise", 0, 1)])
def test_how_a_worker_ended_is_told(
    device: str, slot: int, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    async def test(server: ForkServer) -> None:
        process, channel = await _fork(server, device, slot)
        assert await process.status == status
        assert select.select([process.pidfd], [], [], 0)[0]
        channel.close()
        os.close(process.pidfd)

    _run(test)
    assert ("RuntimeError" in capfd.readouterr().err) == (device == "raise")


def test_a_killed_worker_is_told_by_its_signal() -> None:
    async def test(server: ForkServer) -> None:
        process, channel = await _fork(server, "wait")
        signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
        assert await process.status == -signal.SIGKILL
        channel.close()
        os.close(process.pidfd)

    _run(test)


def test_a_server_that_dies_fails_what_waits_and_takes_no_worker_along() -> None:
    async def test(server: ForkServer) -> None:
        process, channel = await _fork(server, "wait")
        channel.recv(1000)
        server.kill()
        assert await process.status is None
        assert not server.alive
        with pytest.raises(OSError, match="has ended") as raised:
            await _fork(server, "net0")
        assert raised.value.errno == errno.ESRCH
        assert not select.select([process.pidfd], [], [], 0)[0]
        channel.send(b".")  # which ends it
        channel.close()
        os.close(process.pidfd)

    _run(test)


def test_the_launcher_starts_a_server_anew() -> None:
    async def run() -> None:
        launcher = Launcher("tests.test_launcher:behave", (), mode="0")
        for _ in range(2):
            launched = await launcher.launch("net0", 0, 0)
            assert await launched.process.status == 0
            os.close(launched.process.pidfd)
            launched.channel.close()
            server = launcher._server
            assert server
            server.kill()
            while server.alive:
                await asyncio.sleep(0.01)
        launcher.close()

    asyncio.run(run())


class Fake:
    """A compiler that compiles nothing, when it is told to."""

    def __init__(self, *kept: bool, done: bool = False) -> None:
        self.kept = list(kept)
        self.done = done
        self.go_on = asyncio.Event()

    def is_done(self) -> bool:
        return self.done

    async def compile(self, told: Told) -> bool:
        told(Progress(1, 2))
        await self.go_on.wait()
        if not self.kept:
            raise MpnetError("no compiler")
        return self.kept.pop(0)


def modes(device: str, _slot: int, sock: socket.socket, _segment: int) -> None:
    """A worker that sends how it was to be compiled; of a server that is to load, fails as its device says."""
    sock.send(os.environ["MPNET_JIT"].encode())


async def _mode(launcher: Launcher) -> tuple[str, Code]:
    launched = await launcher.launch("net0", 0, 0)
    assert await launched.process.status == 0
    os.close(launched.process.pidfd)
    said = os.read(launched.channel.fileno(), 100).decode()
    launched.channel.close()
    return said, launched.code


def _launch(compiler: Fake, mode: str, test: Callable[[Launcher], Awaitable[None]], *preload: str) -> None:
    async def run() -> None:
        launcher = Launcher("tests.test_launcher:modes", preload, compiler, mode)
        try:
            await asyncio.wait_for(test(launcher), PATIENCE)
        finally:
            launcher.close()

    asyncio.run(run())


async def _compiled(launcher: Launcher) -> None:
    while launcher.code is not Code.COMPILED:
        await asyncio.sleep(0.01)


def test_workers_begin_interpreted_and_those_that_follow_are_compiled() -> None:
    compiler = Fake(True)

    async def test(launcher: Launcher) -> None:
        assert await _mode(launcher) == ("0", Code.INTERPRETED)
        while launcher.compiling is None:
            await asyncio.sleep(0.01)
        assert str(launcher.compiling).startswith("1 of 2 functions, ")
        compiler.go_on.set()
        await _compiled(launcher)
        assert launcher.compiling is None
        assert await _mode(launcher) == ("load", Code.COMPILED)
        assert not launcher._old[0].alive  # it had no workers left

    _launch(compiler, "", test)


def test_what_is_compiled_already_is_loaded_at_once() -> None:
    async def test(launcher: Launcher) -> None:
        assert await _mode(launcher) == ("load", Code.COMPILED)

    _launch(Fake(done=True), "", test)


def test_a_worker_that_waits_for_a_server_whose_place_is_taken_comes_from_the_other() -> None:
    compiler = Fake(True)
    compiler.go_on.set()

    async def test(launcher: Launcher) -> None:
        waits = asyncio.create_task(_mode(launcher))
        assert (await waits)[1] in {Code.INTERPRETED, Code.COMPILED}
        await _compiled(launcher)
        launcher._server, old = launcher._start({"MPNET_JIT": "0"}), launcher._server
        launcher.code = Code.INTERPRETED
        server, waits = launcher._server, asyncio.create_task(_mode(launcher))
        await asyncio.sleep(0)
        launcher._server, launcher.code = old, Code.COMPILED
        server.kill()
        assert (await waits)[1] is Code.COMPILED
        server.close()

    _launch(compiler, "", test)


def test_what_cannot_be_kept_is_compiled_in_the_server() -> None:
    compiler = Fake(False)

    async def test(launcher: Launcher) -> None:
        assert await _mode(launcher) == ("0", Code.INTERPRETED)
        compiler.go_on.set()
        await _compiled(launcher)
        assert await _mode(launcher) == ("1", Code.COMPILED)

    _launch(compiler, "", test)


def test_what_cannot_be_loaded_is_compiled_again() -> None:
    compiler = Fake(True, True, False, done=True)
    compiler.go_on.set()

    async def test(launcher: Launcher) -> None:
        both = await asyncio.gather(_mode(launcher), _mode(launcher))
        assert both == [("0", Code.INTERPRETED)] * 2
        assert launcher._improving
        with contextlib.suppress(OSError):
            await launcher._improving
        assert compiler.kept == [False]  # after two attempts it is left as it is
        assert await _mode(launcher) == ("0", Code.INTERPRETED)

    _launch(compiler, "", test, "tests.cannot_be_loaded")


def test_who_waits_for_compiled_code_gets_it_or_hears_why_not() -> None:
    compiler = Fake(True)

    async def test(launcher: Launcher) -> None:
        waiting = asyncio.create_task(_mode(launcher))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        compiler.go_on.set()
        assert await waiting == ("load", Code.COMPILED)

    _launch(compiler, "1", test)

    async def fails(launcher: Launcher) -> None:
        with pytest.raises(MpnetError, match="no compiler"):
            await _mode(launcher)

    _launch(_ready(Fake()), "1", fails)


def _ready(compiler: Fake) -> Fake:
    compiler.go_on.set()
    return compiler


def test_without_a_compiler_workers_stay_interpreted() -> None:
    async def test(launcher: Launcher) -> None:
        assert await _mode(launcher) == ("0", Code.INTERPRETED)
        assert launcher._improving
        await launcher._improving
        assert await _mode(launcher) == ("0", Code.INTERPRETED)

    _launch(_ready(Fake()), "", test)


def test_terms_and_interrupts_leave_the_server_be() -> None:
    async def test(server: ForkServer) -> None:
        await server.ready()
        assert server._server
        for number in (signal.SIGTERM, signal.SIGINT):
            server._server.send_signal(number)
        process, channel = await _fork(server, "net0")
        assert await process.status == 0
        channel.close()
        os.close(process.pidfd)

    _run(test)


def test_a_server_outlives_control_for_its_worker_and_no_longer() -> None:
    async def run() -> None:
        server = ForkServer("tests.test_launcher:behave")
        server.start()
        process, channel = await _fork(server, "wait")
        channel.recv(1000)
        assert server._server
        server._lose()  # as the kernel does when control dies
        assert not select.select([process.pidfd], [], [], 0.2)[0]
        assert server._server.poll() is None
        channel.send(b".")  # which ends it
        assert server._server.wait(PATIENCE) == 0
        channel.close()
        os.close(process.pidfd)

    asyncio.run(run())


def test_nothing_is_imported_from_the_folder_that_control_is_started_in(tmp_path: Path) -> None:
    (tmp_path / "msgspec.py").write_text("raise SystemExit('taken from where control was started')")
    program = (
        "import asyncio\nfrom mpnet.control.fork_server import ForkServer\n"
        "server = ForkServer('mpnet.workers.fork_server:main')\nserver.start()\n"
        "async def ready():\n    await server.ready()\n    server.close()\nasyncio.run(ready())\n"
    )
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, timeout=PATIENCE, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
