"""Calls that may block for as long as somebody outside likes, done where they keep nobody else waiting."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


async def aside(call: Callable[[], T], enough: asyncio.Event) -> T | None:
    """Return what ``call`` does, which is made in a thread of its own.

    Not in the loop's pool: that has few threads, and is waited for at the end. This one is left to itself when
    the process ends, and when ``enough`` is set first: then the answer is None.

    Raises:
        Exception: what ``call`` raised.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if done.done():
            return
        if error:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # there is a result where there is no error

    def work() -> None:
        result: T | None = None
        failure: Exception | None = None
        try:
            result = call()
        except Exception as error:  # noqa: BLE001 - it is raised in the loop
            failure = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=work, daemon=True).start()
    waiting = asyncio.create_task(enough.wait())
    events: set[asyncio.Future[Any]] = {done, waiting}
    try:
        await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        if not done.done():
            done.cancel()
    return None if done.cancelled() else done.result()
