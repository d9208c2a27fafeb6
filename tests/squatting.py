"""Files in /dev/shm that have the name of a segment and are none that may be mapped."""

import os
from pathlib import Path

from mpnet.segment import layout
from mpnet.segment.segment import PREFIX, Segment

STRANGER = 4711
"""A user who does not run the tests."""
KINDS = ("other's", "open to all", "empty", "cut short", "too many pairs", "link", "fifo", "folder")


def squat(device: str, kind: str) -> Path:
    """Have the name of a device's segment taken by one of ``KINDS``."""
    path = Path("/dev/shm") / f"{PREFIX}{device}"  # noqa: S108 - where Linux shows POSIX shared memory
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "empty":
        path.touch(0o600)
    else:
        _spoil(Segment.create(device, 1), path, kind)
    return path


def _spoil(segment: Segment, path: Path, kind: str) -> None:
    if kind == "other's":
        os.chown(path, STRANGER, STRANGER)
    elif kind == "open to all":
        path.chmod(0o666)
    elif kind == "cut short":
        os.truncate(path, layout.PAGE)
    else:
        segment.header.queue_pairs = layout.MAX_QUEUE_PAIRS + 1


def clear(path: Path) -> None:
    """Remove what ``squat`` made."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink()
