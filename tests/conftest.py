"""What every test is held to: nothing is left behind."""

import contextlib
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

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
    # multiprocessing's two helpers serve the whole test run and end with it.
    helpers = ("multiprocessing.forkserver", "multiprocessing.resource_tracker")
    found = set()
    for child in psutil.Process().children(recursive=True):
        try:
            command = " ".join(child.cmdline())
            if child.status() != psutil.STATUS_ZOMBIE and not any(helper in command for helper in helpers):
                found.add(child.pid)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture(autouse=True, scope="module")
def _nothing_left_behind() -> Iterator[None]:
    """No process, file descriptor or shared memory outlives the module that made it."""
    memory, files, children = _shared_memory(), _open_files(), _children()
    yield
    gc.collect()
    assert _children() - children == set(), "processes were left running"
    assert _shared_memory() - memory == set(), "shared memory was left behind"
    left = {fd: target for fd, target in _open_files().items() if fd not in files}
    grown = {fd: target for fd, target in left.items() if not target.endswith(("/urandom", "/null"))}
    assert grown == {}, "file descriptors were left open"
