"""A share of the event loop's time: who has used his up waits, and everybody else is served meanwhile."""

import time
import types
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any, TypeVar

SHARE = 0.25
"""Of the event loop's time, in the long run."""
SAVED_SECONDS = 1.0
"""That may be used at once: a guest of 64 queue pairs attaches within a quarter of it."""

Result = TypeVar("Result")


class Budget:
    """How long somebody has held the event loop, against what is his share.

    Args:
        clock: seconds, as ``time.monotonic``.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._saved = SAVED_SECONDS
        self._seen = clock()

    def spend(self, seconds: float) -> None:
        """Note that the event loop was held for so long."""
        self._refill()
        self._saved -= seconds

    @property
    def debt(self) -> float:
        """Seconds to wait until the share has made up for what was spent; 0 where nothing is owed."""
        self._refill()
        return max(0.0, -self._saved / SHARE)

    def _refill(self) -> None:
        now = self._clock()
        self._saved = min(SAVED_SECONDS, self._saved + (now - self._seen) * SHARE)
        self._seen = now


@types.coroutine
def metered(work: Coroutine[Any, Any, Result], spend: Callable[[float], None]) -> Generator[Any, Any, Result]:
    """Await ``work`` and tell ``spend`` how long each step of it held the event loop; its waits cost nothing."""
    resume: Callable[[], Any] = partial(work.send, None)
    while True:
        begun = time.perf_counter()
        try:
            waits_for = resume()
        except StopIteration as end:
            result: Result = end.value
            return result
        finally:
            spend(time.perf_counter() - begun)
        try:
            resume = partial(work.send, (yield waits_for))
        except BaseException as error:  # noqa: BLE001 - it is the work's own to handle
            resume = partial(work.throw, error)
