"""The user's cache folder: trees of files that are made once, whole or not at all, and shared by concurrent runs.

What lies in it is run, as root too: it belongs to the user alone.
"""

import fcntl
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mpnet.errors import MpnetError
from mpnet.jit.cache import make, objection

UNFINISHED = ".new-"
"""What names of folders in the cache begin with while they are written."""

_MANIFEST = "whole.json"


def cache_directory() -> Path:
    """Make, where needed, and name the user's cache folder of mpnet.

    Raises:
        MpnetError: it is another user's, or others may write to it.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The base directory specification: a relative path is to be ignored.
    root = Path(base) if base.startswith("/") else Path.home() / ".cache"
    directory = root / "mpnet"
    make(directory, 0o700)
    if reason := objection(directory):
        raise MpnetError(
            f"no programs and kernels are kept or run: {reason}",
            f"make {directory} user {os.geteuid()}'s own and chmod go-w it, or set XDG_CACHE_HOME",
        )
    return directory


@contextmanager
def cache_lock(area: str = "") -> Iterator[Path]:
    """Hold a folder of the cache for one writer at a time, also between processes; gives the folder."""
    directory = cache_directory() / area
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for unfinished in directory.glob(f"{UNFINISHED}*"):  # of a writer that was killed
            shutil.rmtree(unfinished)
        yield directory


@contextmanager
def unfinished(area: Path) -> Iterator[Path]:
    """Give a folder to build a tree in; what is left in it at the end is removed."""
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=area) as temporary:
        yield Path(temporary)


def finish(tree: Path, place: Path) -> Path:
    """Put a tree where it is looked for, by one rename; whatever is there that is not whole goes."""
    (tree / _MANIFEST).write_text(json.dumps(_files(tree)))
    if place.exists():
        shutil.rmtree(place)
    return tree.rename(place)


def is_whole(tree: Path) -> bool:
    """Whether every file is there in its full size: cleaners and full disks leave trees with holes."""
    try:
        manifest = json.loads((tree / _MANIFEST).read_text())
    except (OSError, ValueError):
        return False
    return bool(manifest == _files(tree))


def _files(tree: Path) -> dict[str, int]:
    """Sizes of a tree's regular files by their path within it, the manifest left out."""
    sizes = {}
    for folder, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118 - a Path would be built for each of thousands
            found = os.lstat(path)
            if stat.S_ISREG(found.st_mode) and name != _MANIFEST:
                sizes[os.path.relpath(path, tree)] = found.st_size
    return sizes
