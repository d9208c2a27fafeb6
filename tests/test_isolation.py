"""What a worker has given up before its first message, and what becomes of one that wants more.

Real workers of a real fork server, interpreted, in a process each.
"""

import contextlib
import json
import os
import platform
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mpnet.errors import MpnetError
from mpnet.guest.chain import PLAIN, Layout
from mpnet.guest.frame import Frame, NetHeader
from mpnet.jit.system_calls import Call, number
from mpnet.rpc.channel import ChannelClosedError
from mpnet.rpc.worker import Done, Forbidden, Isolated, RingBroken, SetPolling, StopRing, TraceBursts
from mpnet.segment.layout import Engine
from mpnet.workers.isolation import declared, landlock, seccomp
from tests.isolated_harness import IsolatedHarness, Server, server
from tests.isolated_worker import ACTIONS
from tests.worker_harness import HEADER_BYTES

Step = Callable[[IsolatedHarness], None]
FRAME = Frame(bytes(12) + b"\x88\xb5" + bytes(1400))


@pytest.fixture(scope="module")
def forks() -> Iterator[Server]:
    with server() as started:
        yield started


def forbidden(harness: IsolatedHarness) -> list[str]:
    return [report.call for report in harness.reports if isinstance(report, Forbidden)]


def exercise(harness: IsolatedHarness) -> None:
    """Rings, frames both ways, memory.

    Raises:
        ChannelClosedError: the worker has ended, here and in the next ones.
    """
    kick(harness)
    harness.start()
    harness.receiver.post(1600, 4)
    for layout in (PLAIN, Layout((3, 7))):
        send(harness, layout)
    # Behind some short frames, the next is read in another way.
    for size in (len(FRAME.data), *(60,) * 20):
        harness.tap.send(NetHeader().pack(HEADER_BYTES) + FRAME.data[:size])
        until(harness, lambda: bool(harness.receiver.receive(1, seconds=0)))
    harness.start(None)
    assert isinstance(harness.ask(StopRing(1)), Done)
    harness.set_memory()


def send(harness: IsolatedHarness, layout: Layout = PLAIN) -> None:
    with contextlib.suppress(MpnetError):
        harness.sender.send([FRAME], layout, seconds=0)
    until(harness, lambda: bool(select.select([harness.tap], [], [], 0)[0]))
    assert harness.tap.recv(1 << 17)[HEADER_BYTES:] == FRAME.data


def poll(harness: IsolatedHarness) -> None:
    """Have it look for work for ever longer after each frame, and so offer its processor to others.

    Where those take it, no poll begins for a while: then it has offered it.
    """
    harness.ask(SetPolling(60_000_000))
    harness.start()
    for _ in range(16):
        before = int(harness.segment.workers[0].poll_misses)
        send(harness)
        for _ in range(300):
            if harness.segment.workers[0].poll_misses > before:
                break
            harness.ask(TraceBursts(False))


def until(harness: IsolatedHarness, done: Callable[[], bool]) -> None:
    while not done():
        harness.ask(TraceBursts(False))


def shrink(harness: IsolatedHarness) -> None:
    """Take guest memory away under a ring: SIGBUS, and a broken ring."""
    harness.start()
    os.ftruncate(harness.memory.fd, 0)
    kick(harness)
    until(harness, lambda: any(isinstance(report, RingBroken) for report in harness.reports))


def lose_segment(harness: IsolatedHarness) -> None:
    """Take the segment away: SIGBUS in what is no guest memory, which no worker survives."""
    os.ftruncate(harness.segment.fd, 0)
    harness.ask(TraceBursts(False))


def kick(harness: IsolatedHarness) -> None:
    fd = harness.tx.ring.kick_fd
    assert fd is not None
    os.eventfd_write(fd, 1)


class Course(NamedTuple):
    """Steps, and how the worker ends behind them."""

    engine: Engine
    steps: tuple[Step, ...] = ()
    plan: str = ""
    status: int = 0


def run(forks: Server, course: Course, omit: str = "") -> IsolatedHarness:
    """Have a worker go through a course, as far as it comes, and end."""
    with (
        IsolatedHarness(forks, omit + course.plan, engine=course.engine) as harness,
        contextlib.suppress(ChannelClosedError),
    ):
        for step in course.steps:
            step(harness)
    return harness


COURSES = {
    "io_uring": Course(Engine.URING, (exercise,)),
    "plain": Course(Engine.RW, (exercise, poll, shrink)),
    "memory": Course(Engine.RW, plan=".do-grow"),
    "segment": Course(Engine.RW, (lose_segment,), status=-signal.SIGBUS),
}


@pytest.mark.parametrize("course", COURSES.values(), ids=COURSES)
def test_an_isolated_worker_does_all_that_a_worker_does(forks: Server, course: Course) -> None:
    harness = run(forks, course)
    assert (forbidden(harness), harness.status) == ([], course.status)


CALLS = [(place, call) for place, call in enumerate(declared.calls()) if number(call.name) is not None]
FSTAT = {"fstat", "newfstatat"}
UNTOLD = {"sendmsg", "exit_group", "brk"}
"""Nothing can be told without the first, at the second the channel is closed, and to tell may take memory."""


@pytest.mark.parametrize(("place", "call"), CALLS, ids=[f"{place}-{call.name}" for place, call in CALLS])
def test_every_declared_call_is_made(forks: Server, place: int, call: Call) -> None:
    """A worker whose filter lacks it is found making it, or it says why it may go unused."""
    for course in COURSES.values():
        harness = run(forks, course, f".omit-{place}")
        if harness.status == -signal.SIGSYS:
            assert forbidden(harness) == [call.name] or (call.name in UNTOLD and not forbidden(harness))
            return
        assert (forbidden(harness), harness.status) == ([], course.status)
    assert call.seldom, "no course makes it"


def test_the_c_librarys_fstat_is_declared_under_the_name_it_has_here(forks: Server) -> None:
    places = [place for place, call in CALLS if call.name in FSTAT]
    found = [forbidden(run(forks, COURSES["io_uring"], f".omit-{place}")) for place in places]
    assert sorted(map(len, found)) == [0, 1]


@pytest.mark.parametrize("action", sorted(set(ACTIONS) - {"fail", "grow"}))
def test_a_call_that_is_not_declared_is_refused_told_and_the_end(forks: Server, action: str) -> None:
    with IsolatedHarness(forks, f".do-{action}") as harness:
        harness.start()
    assert (forbidden(harness), harness.status) == ([action], -signal.SIGSYS)
    (report,) = (report for report in harness.reports if isinstance(report, Forbidden))
    assert re.fullmatch(r"mpnet\.workers\.worker:\d+", report.where), "where it took the message"


def test_a_worker_that_fails_says_where_without_reading_its_source(capfd: pytest.CaptureFixture[str]) -> None:
    with server() as forks, IsolatedHarness(forks, ".do-fail") as harness:
        harness.start()
    assert (forbidden(harness), harness.status) == ([], 1)
    said = capfd.readouterr().err
    assert re.search(r'isolated_worker.py", line \d+, in _fail\nLookupError: the worker.s own fault\n', said)


def test_a_worker_has_no_rights(forks: Server) -> None:
    with IsolatedHarness(forks) as harness:
        harness.start()
        lines = Path(f"/proc/{harness.process.pid}/status").read_text().splitlines()
        seen = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    (isolated,) = (report for report in harness.reports if isinstance(report, Isolated))
    assert isolated.missing == {}
    assert {seen[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (seen["NoNewPrivs"], seen["Seccomp"]) == ("1", "2")
    assert "0" not in seen["Uid"].split() + seen["Gid"].split()
    assert os.geteuid() != 0 or seen["Groups"] == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root looks into everything, in the next test")
def test_no_process_of_the_same_user_looks_into_a_worker(forks: Server) -> None:
    with IsolatedHarness(forks) as harness:
        harness.start()
        with pytest.raises(PermissionError):
            Path(f"/proc/{harness.process.pid}/ns/net").readlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees it, and the test before that nobody else does")
def test_a_worker_sees_nothing_and_holds_what_it_was_given(forks: Server) -> None:
    with IsolatedHarness(forks) as harness:
        harness.start()
        folder = Path(f"/proc/{harness.process.pid}")
        namespaces = {name: (folder / "ns" / name).readlink() for name in ("net", "mnt", "ipc")}
        root, owner = list((folder / "root").iterdir()), (folder / "maps").stat().st_uid
        files = {str(fd.readlink()) for fd in (folder / "fd").iterdir()}
        maps = (folder / "maps").read_text().splitlines()
    assert not [name for name, own in namespaces.items() if own == Path(f"/proc/self/ns/{name}").readlink()]
    assert (root, owner) == ([], 0), "nothing is mounted, and nobody but root looks into it"
    stderr = str(Path("/proc/self/fd/2").readlink())
    kinds = ("socket:", "anon_inode:", "pipe:", "/dev/shm/mpnet-guest.")  # noqa: S108 - as Linux names what is given
    assert {file for file in files if not file.startswith(kinds)} == {"/dev/null", stderr}, "not the segment"
    parts = [line.split()[1] for line in maps if line.endswith(f"/mpnet.{harness.segment.name}")]
    assert parts == ["r--s", "rw-s"], "and of that it cannot change what control wrote"


# Stages, each by itself.

TRIAL = [sys.executable, "-P", "-m", "mpnet.workers.isolation", "test"]
SOMEBODY = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
NAMESPACES = {"user namespace", "network namespace", "ipc namespace", "mount namespace"}


def stages(*command: str) -> dict[str, tuple[bool, str]]:
    """How the stages ended in a process that a command starts."""
    environment = os.environ | {"MPNET_JIT": "0", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([*command, *TRIAL], env=environment, capture_output=True, text=True, check=True)
    return {stage["name"]: (stage["done"], stage["detail"]) for stage in json.loads(done.stdout)}


def test_a_user_without_rights_gives_up_all_by_way_of_a_user_namespace() -> None:
    found = stages(*SOMEBODY)
    assert {name for name, (done, _) in found.items() if not done} == set()
    assert found["user"] == (True, "uid 1000, as it was not started by root")
    assert found["user namespace"] == (True, "its own, in which no user exists")


def test_where_namespaces_are_refused_the_other_stages_are_gone_through() -> None:
    script = 'echo 0 >/proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all --inh-caps=-all "$@"'
    found = stages("unshare", "--user", "--map-root-user", "bash", "-c", script, "bash")
    assert {name for name, (done, _) in found.items() if not done} == {"user", *NAMESPACES}
    assert all(reason for _, reason in found.values())


@pytest.mark.parametrize(
    ("version", "size", "first"), [(1, 8, 0x1FFF), (3, 8, 0x7FFF), (4, 16, 0x7FFF), (7, 24, 0xFFFF)]
)
def test_landlock_is_asked_for_all_that_its_version_knows(version: int, size: int, first: int) -> None:
    rules = landlock.rules(version)
    assert (len(rules), int.from_bytes(rules[:8], "little")) == (size, first)


def test_a_machine_with_the_generic_table_of_calls_has_a_filter_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    program = seccomp.assemble(declared.calls())
    compared = {operand for code, _, _, operand in program if code == seccomp.EQUAL}
    assert {number("preadv2"), number("epoll_pwait"), number("writev")} <= compared
    assert number("epoll_wait") is None
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(OSError, match="system calls of riscv64 are not known"):
        seccomp.assemble(declared.calls())


def test_every_module_that_declares_calls_is_asked() -> None:
    """A declaration that nobody gathers would do nothing, and be missed only when it is needed."""
    package = Path(declared.__file__).parents[1]
    folders = (
        package,
        package / "isolation",
        package.parent / "jit",
        package.parent / "rpc",
        package.parent / "virtio",
    )
    declaring = {
        path.stem for folder in folders for path in folder.glob("*.py") if "\nSYSTEM_CALLS" in path.read_text()
    }
    assert declaring == {module.__name__.rpartition(".")[2] for module in declared.MODULES}
