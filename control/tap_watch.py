"""A device's TAP, looked at again and again: whoever has the right may delete it on the host and make it anew."""

import asyncio
import os
from collections.abc import Callable

from mpnet.control.log import Log
from mpnet.control.port import Port
from mpnet.control.supervisor import Supervisor
from mpnet.errors import MpnetError

SECONDS = 1.0
"""Between two looks, each of which is one system call."""


class TapWatch:
    """Notices that the TAP has gone, and takes up one of its name that is made again.

    Args:
        tap: the device's.
        supervisor: whose workers serve the queues.
        log: carries the device's name.
        changed: called when the TAP has gone or is back.
    """

    def __init__(self, tap: Port, supervisor: Supervisor, log: Log, changed: Callable[[], None]) -> None:
        self._tap = tap
        self._supervisor = supervisor
        self._log = log
        self._changed = changed
        self._known = True
        self._told = ""

    async def look(self) -> None:
        """Look once; nothing else may happen to the device meanwhile."""
        if not self._tap.check() and self._known:
            self._known = False
            self._log.warning("TAP is gone", remedy="make it again, and it is taken up")
            self._changed()
        if self._tap.is_back and await self._take_up():
            self._known, self._told = True, ""
            self._log.info("TAP is back")
            self._changed()

    async def _take_up(self) -> bool:
        opening = asyncio.create_task(asyncio.to_thread(self._tap.take_up))
        try:
            old = await asyncio.shield(opening)
        except asyncio.CancelledError:
            await asyncio.wait([opening])  # a thread cannot be called back
            raise
        except (OSError, MpnetError) as error:
            if str(error) != self._told:
                self._told = str(error)
                self._log.warning("TAP cannot be taken up again", problem=self._told)
            return False
        await self._supervisor.set_queues(list(self._tap.fds))
        for fd in old:
            os.close(fd)
        return True
