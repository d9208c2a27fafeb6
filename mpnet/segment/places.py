"""How far the rings of a device had come: what a control process takes over from one that crashed."""

import ctypes
from dataclasses import dataclass
from typing import Self

from mpnet.segment.layout import LOG_BYTES
from mpnet.segment.segment import Segment


@dataclass(frozen=True, slots=True)
class Places:
    """The places of packed rings, which their front-end does not know, and the last bursts.

    They are hints: a worker goes by them where the ring itself allows it.

    Attributes:
        rings: by number, ``layout.RING.place`` and the log.
    """

    rings: tuple[tuple[int, bytes], ...] = ()

    @classmethod
    def of(cls, segment: Segment) -> Self:
        """Of a segment that nobody writes any more."""
        return cls(
            tuple(
                (int(ring.place), ctypes.string_at(segment.log_address(number), LOG_BYTES))
                for number, ring in enumerate(segment.rings)
            )
        )

    def put(self, segment: Segment) -> None:
        """Put them into a new segment of the device, for as many rings as both have."""
        for number, (ring, (place, log)) in enumerate(zip(segment.rings, self.rings, strict=False)):
            ring.place = place
            ctypes.memmove(segment.log_address(number), log, LOG_BYTES)
