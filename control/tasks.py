"""Tasks of the event loop that nobody waits for: none is lost sight of, and no exception in one goes unseen."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from mpnet.control.log import Log

_PAUSE_SECONDS = 1.0
"""Before what failed is done again: a fault that stays fills neither the processor nor the log."""


class Tasks:
    """What one owner has running.

    Args:
        log: where a fault is told.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something once; a fault in it is logged."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def keep(self, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Run something for good: after a fault in it, it is begun anew."""
        return self.start(self._again_and_again(work))

    async def finish(self) -> None:
        """Wait for all of them."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def cancel(self) -> None:
        """End all of them."""
        for task in self._tasks:
            task.cancel()
        await self.finish()

    async def _again_and_again(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                return await work()
            except Exception:  # noqa: BLE001 - whatever it is, what is kept running goes on
                self._log.exception("task failed, and is begun anew", task=_label(work))
            await asyncio.sleep(_PAUSE_SECONDS)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._log.error("task failed", task=_name(task), exc_info=error)


def _name(task: asyncio.Task[None]) -> str:
    return getattr(task.get_coro(), "__qualname__", "")


def _label(work: Callable[..., Any]) -> str:
    return work.func.__name__ if isinstance(work, partial) else work.__name__
