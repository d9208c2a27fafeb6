"""What a crashed run left behind: its workers go on forwarding, its segment and its socket stay.

A process is ended only when it is certain to be such a worker: the device's segment has its number and its
start, in ticks since this boot, which no step of a clock moves; and it calls itself what a worker of the device
does, which a worker that its guest has taken over cannot have another process do. Its mappings cannot be asked
for: one that has given up its rights shows them to nobody.
"""

import contextlib
import os
import select
import signal
import time

from mpnet.control.log import Log
from mpnet.errors import MpnetError
from mpnet.segment import capture, process, shm
from mpnet.segment import segment as segments
from mpnet.segment.places import Places
from mpnet.segment.segment import Segment, is_served

_TERMINATE_SECONDS = 1.0
_KILL_SECONDS = 5.0


def clear(device: str, log: Log) -> Places:
    """Remove what a run that is no more left of ``device``; nothing to do where it left nothing.

    Returns:
        How far its rings had come, once nobody served them any more.

    Raises:
        MpnetError: another control process serves the device, a worker cannot be ended, or what has the name of
            the device's shared memory is not mpnet's or not this user's.
    """
    if not segments.exists(device):
        return Places()
    segment = Segment.attach(device)
    control = int(segment.header.control_pid)
    if is_served(segment.header):
        raise MpnetError(
            f"device {device!r} is served by another mpnet, process {control}", "stop it or choose another id"
        )
    boot = bytes(segment.header.boot_id)
    records = [(int(record.pid), int(record.start_ticks)) for record in segment.workers if record.pid]
    with contextlib.ExitStack() as stack:
        orphans = {}
        for pid, ticks in records:
            pidfd = _open_worker(pid, ticks, boot, device)
            if pidfd is not None:
                stack.callback(os.close, pidfd)
                orphans[pid] = pidfd
        _end(orphans, device)
    places = Places.of(segment)
    segment.unlink()
    with contextlib.suppress(shm.ForeignError):  # it is in nobody's way before somebody captures
        capture.unlink(device)
    log.warning("leftovers of a crashed run removed", control=control, workers=list(orphans))
    return places


def _open_worker(pid: int, ticks: int, boot: bytes, device: str) -> int | None:
    """A pidfd of a worker that is still there; None where the number is another process's by now."""
    try:
        pidfd = os.pidfd_open(pid)
    except (OSError, OverflowError):  # the number is a worker's word
        return None
    # Only now: the process behind a pidfd stays the same.
    if process.lives(pid, ticks, boot) and process.title(pid).startswith(process.worker_title(device)):
        return pidfd
    os.close(pidfd)
    return None


def _end(orphans: dict[int, int], device: str) -> None:
    """End processes by their pidfds: SIGTERM, then SIGKILL."""
    left = orphans
    for number, seconds in (signal.SIGTERM, _TERMINATE_SECONDS), (signal.SIGKILL, _KILL_SECONDS):
        for pidfd in left.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(pidfd, number)
        left = _wait(left, seconds)
    if left:
        raise MpnetError(
            f"processes {', '.join(map(str, left))} of a crashed run still serve device {device!r} and cannot be "
            "ended",
            "end them as administrator",
        )


def _wait(processes: dict[int, int], seconds: float) -> dict[int, int]:
    """Wait until they have ended, at most so long; gives those that have not."""
    deadline = time.monotonic() + seconds
    left = dict(processes)
    while left:
        poller = select.poll()
        for pidfd in left.values():
            poller.register(pidfd, select.POLLIN)
        ended = {fd for fd, _ in poller.poll(max(0.0, deadline - time.monotonic()) * 1000)}
        if not ended:
            break
        left = {pid: pidfd for pid, pidfd in left.items() if pidfd not in ended}
    return left
