"""Where machine code is kept between runs, and whose is taken; no compiler is loaded for it.

What is kept here is run, so it is taken from folders and files that are this user's or root's, that nobody else
can write to and that are no links. Code for exactly these sources, packages and processors has a folder of its
own. It is *whole* once all that workers run is in it: then they begin with it.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import stat
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache as remembered
from pathlib import Path
from shutil import rmtree

LOAD_ONLY = os.environ.get("MPNET_JIT") == "load"
"""Whether this process compiles nothing: code that is not kept is an error."""
CHOSEN = "MPNET_CACHE"
"""The environment variable that names another folder for the code, looked at first."""
SHARED = Path("/var/cache/mpnet")
"""Where ``mpnet compile --folder`` can put code for all users of a machine."""
_FOLDER = "numba"
_WHOLE = "whole"
_PACKAGE = Path(__file__).parent.parent
_HOT_FOLDERS = ("jit", "virtio", "segment", "workers", "guest")
_MEASURING_FOLDERS = ("bench", "experiment")
"""Of these only the files with compiled functions count: the others change often, and no worker has them."""
_STALE_SECONDS = 30 * 24 * 3600
_CHECK_BYTES = hashlib.sha256().digest_size
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

complaints: list[str] = []
"""Why code could not be kept, each reason once."""


@remembered
def digest() -> str:
    """Hash of all that compiled code depends on, all sources that it can come from among it.

    A change in an accessor would leave stale callers behind if each file counted alone.
    """
    words = [importlib.metadata.version(package) for package in ("numba", "llvmlite", "numpy")]
    words += [sys.version, platform.machine(), *_processor(), os.environ.get("MPNET_PERF", "0")]
    words += [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("NUMBA_")]
    total = hashlib.sha256(repr(words).encode())
    for folder in _HOT_FOLDERS:
        for path in sorted((_PACKAGE / folder).glob("*.py")):
            total.update(path.read_bytes())
    for folder in _MEASURING_FOLDERS:
        for path in sorted((_PACKAGE / folder).glob("*.py")):
            source = path.read_bytes()
            total.update(source if b"\n@compiled\n" in source else b"")
    return total.hexdigest()[:16]


def _processor() -> Iterator[str]:
    """What code is made for: the model and the features of a processor."""
    with suppress(OSError), Path("/proc/cpuinfo").open() as lines:
        for line in lines:
            if line == "\n":
                return
            if line.startswith(("vendor_id", "cpu family", "model", "flags", "Features", "CPU ")):
                yield line


def bases() -> list[Path]:
    """Folders that code may be kept below, as they are looked at in turn; the last is for all users."""
    found = [Path(os.environ[CHOSEN])] if os.environ.get(CHOSEN) else []
    with suppress(RuntimeError):  # a user without a home, as containers may have
        found.append(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mpnet")
    return [*found, SHARED]


def folder_below(base: Path) -> Path:
    """The folder of machine code for exactly these sources."""
    return base / _FOLDER / digest()


@remembered
def folders() -> tuple[Path, ...]:
    """Folders that exist and whose code may be run."""
    return tuple(folder for folder in map(folder_below, bases()) if not objection(folder))


@remembered
def writable() -> Path | None:
    """The folder that this process keeps code in, made where needed; None where none can be kept."""
    for base in bases()[:-1]:
        folder = folder_below(base)
        try:
            make(folder, 0o700)
        except OSError as error:
            complain(f"{folder}: {error.strerror}")
            continue
        if reason := objection(folder):
            complain(reason)
        elif os.access(folder, os.W_OK | os.X_OK):
            folders.cache_clear()
            return folder
    return None


def make(folder: Path, mode: int) -> None:
    """Make a folder, and those above it that are missing, with ``mode`` whatever the umask.

    Raises:
        OSError: it cannot be made.
    """
    if not folder.parent.is_dir():
        make(folder.parent, mode)
    with suppress(FileExistsError):
        folder.mkdir(mode)
        folder.chmod(mode)


def objection(path: Path, *, folder: bool = True) -> str:
    """Why code is not taken from a folder, or file; empty where it may be."""
    try:
        status = path.lstat()
    except OSError as error:
        return f"{path}: {error.strerror}"
    if not (stat.S_ISDIR if folder else stat.S_ISREG)(status.st_mode):
        return f"{path} is {'a link' if stat.S_ISLNK(status.st_mode) else 'something else'}"
    if status.st_uid not in {0, os.geteuid()}:
        return f"{path} is another user's"
    return f"{path} can be written to by others" if status.st_mode & _OTHERS_WRITE else ""


def read(path: Path) -> bytes | None:
    """What ``write`` wrote; None where that is not there, was cut short, or was written by somebody else."""
    try:
        # Not a link, and the file that is checked is the one that is read.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid not in {0, os.geteuid()} or status.st_mode & _OTHERS_WRITE:
                complain(f"{path} is another user's, or others can write to it")
                return None
            content = file.read() if stat.S_ISREG(status.st_mode) else b""
    except OSError:
        return None
    check, data = content[:_CHECK_BYTES], content[_CHECK_BYTES:]
    if hashlib.sha256(data).digest() != check:
        complain(f"{path} is damaged")
        return None
    return data


def write(path: Path, data: bytes) -> bool:
    """Keep code; at once and whole, or not at all."""
    draft = path.with_name(f"{uuid.uuid4().hex}.tmp")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            os.fchmod(file.fileno(), _readable_as(path.parent))
            file.write(hashlib.sha256(data).digest() + data)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        complain(f"{path.parent}: {error.strerror}")
        return False
    return True


def _readable_as(folder: Path) -> int:
    return 0o600 | (0o044 if folder.stat().st_mode & stat.S_IROTH else 0)


def find_whole() -> Path | None:
    """The folder with all that workers run, if there is one."""
    return next((folder for folder in folders() if is_whole(folder)), None)


def is_whole(folder: Path) -> bool:
    """Whether ``seal`` was called, and the files are as they were then, as far as their sizes tell."""
    data = read(folder / _WHOLE)
    if data is None:
        return False
    sizes: dict[str, int] = json.loads(data)
    paths = ((folder / name, size) for name, size in sizes.items())
    return all(not objection(path, folder=False) and path.stat().st_size == size for path, size in paths)


def seal(folder: Path, names: Iterable[str]) -> bool:
    """Note that these files are all that workers run; whether that could be done."""
    try:
        sizes = {name: (folder / name).stat().st_size for name in names}
    except OSError as error:
        complain(f"{folder}: {error.strerror}")
        return False
    return write(folder / _WHOLE, json.dumps(sizes).encode())


def prune() -> None:
    """Remove code of other versions that nobody has loaded for thirty days, where this process keeps its own."""
    own = writable()
    if own is None:
        return
    with suppress(OSError):
        os.utime(own)
        for folder in own.parent.iterdir():
            if folder != own and time.time() - folder.stat().st_mtime > _STALE_SECONDS:
                rmtree(folder, ignore_errors=True)


def complain(reason: str) -> None:
    """Note why code is not kept, or not taken."""
    if reason not in complaints:
        complaints.append(reason)
