"""What every test is given and held to: Debian's parts are there, and nothing is left behind."""

import contextlib
import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner, Result

from mpnet.cli.main import cli
from mpnet.guest import debian, parts
from tests.real.asked import Supply, asked
from tests.real.release import RELEASE

# Devices that tests start serve with compiled workers from the beginning, but where a test says otherwise.
os.environ.setdefault("MPNET_JIT", "1")

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux shows POSIX shared memory


def _shared_memory() -> set[str]:
    """Names of mpnet's segments, but for those that a process outside this test run has mapped."""
    names = {path.name for path in _SHARED_MEMORY.iterdir() if path.name.startswith(("mpnet", "sem.mpnet"))}
    return names - _mapped_by_others() if names else names


def _mapped_by_others() -> set[str]:
    family = psutil.Process()
    own = {family.pid, *(child.pid for child in family.children(recursive=True))}
    names = set()
    for process in psutil.process_iter():
        if process.pid in own:
            continue
        with contextlib.suppress(psutil.Error):
            names |= {Path(mapping.path).name for mapping in process.memory_maps() if "/dev/shm/" in mapping.path}  # noqa: S108 - as above
    return names


def _open_files() -> dict[int, str]:
    files = {}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - a Path would be built for each of many names
        try:
            files[int(name)] = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115 - likewise
        except FileNotFoundError:
            continue
    return files


def _children() -> set[int]:
    # multiprocessing's helper serves the whole test run and ends with it.
    found = set()
    for child in psutil.Process().children(recursive=True):
        try:
            command = " ".join(child.cmdline())
            if child.status() != psutil.STATUS_ZOMBIE and "multiprocessing.resource_tracker" not in command:
                found.add(child.pid)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Call ``mpnet`` in this process: its words, and as keywords all of its environment."""
    for name in [name for name in os.environ if name.startswith("MPNET_")]:
        monkeypatch.delenv(name)

    def call(*arguments: str, **environment: str) -> Result:
        return CliRunner().invoke(cli, arguments, prog_name="mpnet", env=environment)

    return call


_INSTALLING = pytest.StashKey[subprocess.Popen[bytes]]()
_SUPPLY = pytest.StashKey[Supply]()
_ASKED = pytest.StashKey[frozenset[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Explain the marks; ``unit`` is set here, by what a test asks for."""
    config.addinivalue_line("markers", "unit: runs no part of Debian, needs no root")
    config.addinivalue_line("markers", "release(*parts): takes parts from another release of Debian")
    config.addinivalue_line("markers", "compiled: of the compiled code alone; interpreted it says nothing")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Where all tests run, begin to install all parts, while the collection of tests compiles the data path."""
    whole = session.config.args == session.config.getini("testpaths")
    if not whole or session.config.option.markexpr or session.config.option.collectonly:
        return
    script = f"from mpnet.guest import debian; debian.require({(*parts.PARTS, *RELEASE.split(','))})"
    quiet = subprocess.DEVNULL
    session.config.stash[_INSTALLING] = subprocess.Popen(
        [sys.executable, "-c", script], stdin=quiet, stdout=quiet, stderr=quiet
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs anywhere."""
    for item in items:
        item.stash[_ASKED] = asked(item)
        if not item.stash[_ASKED]:
            item.add_marker("unit")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Install the parts that the tests ask for, before anything enters a network namespace."""
    if session.config.option.collectonly:
        return
    if installing := session.config.stash.get(_INSTALLING, None):
        installing.wait()
    session.config.stash[_SUPPLY] = Supply(debian.require)
    session.config.stash[_SUPPLY].have(part for item in session.items for part in item.stash[_ASKED])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave no package half installed."""
    if installing := session.config.stash.get(_INSTALLING, None):
        installing.wait()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test whose parts cannot be had: none is left out in silence."""
    if lacking := item.config.stash[_SUPPLY].lacking(item.stash[_ASKED]):
        pytest.fail(lacking, pytrace=False)


@pytest.fixture(autouse=True, scope="session")
def _parts_are_asked_for() -> Iterator[list[frozenset[str]]]:
    """Refuse a program of a part to a test that does not ask for it: elsewhere it might not be there."""
    allowed = [frozenset(parts.PARTS)]
    find = debian.program

    def program(name: str) -> Path:
        part = parts.part_of(name)
        # Every Debian has setpriv, by which programs are started that end with us.
        names = {"setpriv", *(each.partition("=")[0] for each in allowed[-1])}
        assert part in names, f'{name}: say real("{part}") of what runs it, from tests.real.asked'
        return find(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(debian, "program", program)
        yield allowed


@pytest.fixture(autouse=True)
def _asked_for(request: pytest.FixtureRequest, _parts_are_asked_for: list[frozenset[str]]) -> Iterator[None]:
    _parts_are_asked_for.append(request.node.stash[_ASKED])
    yield
    _parts_are_asked_for.pop()


@pytest.fixture(autouse=True, scope="module")
def _nothing_left_behind() -> Iterator[None]:
    """No process, file descriptor or shared memory outlives the module that made it."""
    memory, files, children = _shared_memory(), _open_files(), _children()
    yield
    gc.collect()
    assert _children() - children == set(), "processes were left running"
    assert _shared_memory() - memory == set(), "shared memory was left behind"
    left = {fd: target for fd, target in _open_files().items() if fd not in files}
    # matplotlib keeps its fonts open for the next picture.
    grown = {fd: target for fd, target in left.items() if not target.endswith(("/urandom", "/null", ".ttf"))}
    assert grown == {}, "file descriptors were left open"
