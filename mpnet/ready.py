"""Waiting until something can be read: ``select.select`` takes no descriptor above 1023."""

import select
from typing import Protocol


class File(Protocol):
    """What has a descriptor."""

    def fileno(self) -> int:
        """Its number."""


def readable(*files: int | File, seconds: float | None = None) -> list[int]:
    """Return the descriptors of those that can be read, or have ended; none where that took too long.

    Args:
        files: to be waited for.
        seconds: to wait at most; None waits for as long as it takes.
    """
    poll = select.poll()
    for file in files:
        poll.register(file, select.POLLIN)
    return [fd for fd, _ in poll.poll(None if seconds is None else 1000 * seconds)]
