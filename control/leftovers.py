"""What a crashed run left behind: its workers go on forwarding, its segment and its socket stay.

A process is ended only when it is certain to be such a worker: the device's segment names its pid, it is as old
as the segment says, and it has that very segment mapped.
"""

import contextlib
import time
from pathlib import Path

import psutil

from mpnet.control.log import Log
from mpnet.errors import MpnetError
from mpnet.segment import capture
from mpnet.segment import segment as segments
from mpnet.segment.segment import PREFIX, Segment

_CLOCK_SLACK_SECONDS = 2.0
"""How far the two ways to tell a process's age may differ."""
_TERMINATE_SECONDS = 1.0
_KILL_SECONDS = 5.0


def clear(device: str, log: Log) -> None:
    """Remove what a run that is no more left of ``device``; nothing to do where it left nothing.

    Raises:
        MpnetError: another control process serves the device, or a worker cannot be ended.
    """
    if device not in segments.names():
        return
    segment = Segment.attach(device)
    control = int(segment.header.control_pid)
    if _serves(control, device):
        raise MpnetError(
            f"device {device!r} is served by another mpnet, process {control}", "stop it or choose another id"
        )
    records = [(int(record.pid), int(record.start_ns) / 1e9) for record in segment.workers if record.pid]
    orphans = [psutil.Process(pid) for pid, start in records if _is_worker(pid, start, device)]
    _end(orphans, device)
    segment.unlink()
    capture.unlink(device)
    log.warning("leftovers of a crashed run removed", control=control, workers=[orphan.pid for orphan in orphans])


def _serves(pid: int, device: str) -> bool:
    return psutil.pid_exists(pid) and _maps(pid, device)


def _is_worker(pid: int, start: float, device: str) -> bool:
    try:
        # A worker writes its start into the segment after it was made: a later process has only its number.
        old_enough = psutil.Process(pid).create_time() <= start + _CLOCK_SLACK_SECONDS
    except psutil.NoSuchProcess:
        return False
    return old_enough and _maps(pid, device)


def _maps(pid: int, device: str) -> bool:
    try:
        mappings = Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False
    return f"/dev/shm/{PREFIX}{device}\n" in mappings  # noqa: S108 - where Linux shows POSIX shared memory


def _end(orphans: list[psutil.Process], device: str) -> None:
    for orphan in orphans:
        with contextlib.suppress(psutil.NoSuchProcess):
            orphan.terminate()
    _, alive = psutil.wait_procs(orphans, _TERMINATE_SECONDS)
    for orphan in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            orphan.kill()
    deadline = time.monotonic() + _KILL_SECONDS
    _, alive = psutil.wait_procs(alive, max(0.0, deadline - time.monotonic()))
    if alive:
        pids = ", ".join(str(orphan.pid) for orphan in alive)
        raise MpnetError(
            f"processes {pids} of a crashed run still serve device {device!r} and cannot be ended",
            "end them as administrator",
        )
