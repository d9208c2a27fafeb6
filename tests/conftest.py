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
from mpnet.guest import debian

DEBIAN_PACKAGES = (
    *(
        debian.PROGRAM_PACKAGES[name]
        for name in (
            *debian.LINUX_GUEST_PROGRAMS,
            "chromium",
            "linux.uml",
            "prometheus",
            "systemd-analyze",
            "tcpdump",
            "tmux",
            "tshark",
        )
    ),
    "dpdk-dev",
    "librte-net-tap23",
    "librte-net-vhost23",
    "librte-net-virtio23",
)
"""The real parts that tests run."""

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


def pytest_sessionstart(session: pytest.Session) -> None:
    """Begin to install Debian's parts, while the collection of tests compiles the data path."""
    script = f"from mpnet.guest import debian; debian.install({DEBIAN_PACKAGES}); debian.kernel()"
    quiet = subprocess.DEVNULL
    session.config.stash[_INSTALLING] = subprocess.Popen(
        [sys.executable, "-c", script], stdin=quiet, stderr=quiet
    )


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave no package half installed."""
    session.config.stash[_INSTALLING].wait()


@pytest.fixture(autouse=True, scope="session")
def _real_parts(request: pytest.FixtureRequest) -> None:
    """Install Debian's parts and fetch a guest's kernel at once, before anything enters a network namespace.

    A part that cannot be had fails every test with the reason: none is left out in silence.
    """
    request.config.stash[_INSTALLING].wait()
    debian.install(DEBIAN_PACKAGES)
    debian.kernel()


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
