"""A limit of log lines for each device and event: what a guest can repeat at will fills no disk."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import structlog

LINES = 100
"""Of one event of one device at once: the workers of the largest device start so."""
LINES_A_SECOND = 1.0
_MOST_BUCKETS = 1024
"""Far more than events and devices; devices come and go."""


@dataclass(slots=True)
class _Bucket:
    lines: float
    filled: float
    left_out: int = 0


class LineLimit:
    """A processor of structlog's that drops lines beyond the limit; the next one that passes says how many.

    Args:
        clock: seconds, as ``time.monotonic``.

    Attributes:
        left_out: lines dropped since the start.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.left_out = 0
        self._clock = clock
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    def __call__(
        self, _logger: object, _name: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        """Pass a line on or raise ``structlog.DropEvent``."""
        bucket = self._bucket(str(event.get("device", "")), str(event["event"]))
        if bucket.lines < 1:
            bucket.left_out += 1
            self.left_out += 1
            raise structlog.DropEvent
        bucket.lines -= 1
        if bucket.left_out:
            event["left_out"], bucket.left_out = bucket.left_out, 0
        return event

    def overdue(self) -> Iterator[tuple[str, str, int]]:
        """Give device, event and number of lines of what was left out and has not been told by a later line."""
        for (device, event), bucket in list(self._buckets.items()):
            if bucket.left_out and self._refill(bucket) >= 1:
                left_out, bucket.left_out = bucket.left_out, 0
                yield device, event, left_out

    def _bucket(self, device: str, event: str) -> _Bucket:
        key = device, event
        if key not in self._buckets:
            if len(self._buckets) >= _MOST_BUCKETS:
                self._buckets.clear()
            self._buckets[key] = _Bucket(LINES, self._clock())
        self._refill(self._buckets[key])
        return self._buckets[key]

    def _refill(self, bucket: _Bucket) -> float:
        now = self._clock()
        bucket.lines = min(LINES, bucket.lines + (now - bucket.filled) * LINES_A_SECOND)
        bucket.filled = now
        return bucket.lines
