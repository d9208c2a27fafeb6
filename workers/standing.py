"""Where a packed ring stands, seen in the ring itself (VIRTIO 1.3, 2.8.1).

A front-end whose back-end went away without an answer to GET_VRING_BASE knows a split ring's place from its used
index. A packed ring has none: QEMU names the place of the last start. What stands in the descriptors contradicts
nearly every place but the right one. Each of them shows by its AVAIL and USED flags on which lap it was made
available or used; where the device stands, one lap ends and the other one begins.

What cannot be seen is how many descriptors a used chain took: only its first one is written over, and the others
look as if they were still available. Then two places are possible, behind the first one and behind all, unless
the buffer id tells them apart.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mpnet.segment.layout import LOG_ENTRIES, LOG_ENTRY_BYTES
from mpnet.virtio.packed_ring import (
    DESC_F_AVAIL,
    DESC_F_USED,
    advance,
    handover_flags,
    handover_id,
    position,
    used_flags,
    wraps,
)
from mpnet.virtio.split_ring import DESC_F_NEXT

Flags = np.ndarray[Any, np.dtype[np.bool_]]
_DESCRIPTOR = np.dtype([("address", "<u8"), ("length", "<u4"), ("id", "<u2"), ("flags", "<u2")])


@dataclass(frozen=True, slots=True)
class _Lap:
    """Each descriptor as a device sees it whose wrap counter is ``wrap``.

    Attributes:
        used: it was used on this lap.
        available: it was made available on this lap.
        before: it was used on the lap before, or never.
        other: it was made available on another lap: the one before, or the next.
        goes_on: its chain does.
    """

    used: Flags
    available: Flags
    before: Flags
    other: Flags
    goes_on: Flags


class Standing:
    """A copy of a ring's descriptors.

    Args:
        table: the bytes of the descriptor ring.
    """

    def __init__(self, table: bytes) -> None:
        self._ring = np.frombuffer(bytearray(table), _DESCRIPTOR)
        self._entries = len(self._ring)

    def finish(self, log: bytes, place: int) -> bool:
        """Write a burst that was noted and not shown, as ``packed.replay`` does, into the copy.

        Args:
            log: what was noted (``segment.layout``).
            place: as it is in shared memory.

        Returns:
            False where there is no such burst.
        """
        cursor, count = place >> 16 & 0xFFFF, place >> 32
        if not 0 < count <= LOG_ENTRIES or position(cursor) >= self._entries:
            return False
        if not self._lap(wraps(cursor)).available[position(cursor)]:
            return False
        for entry in np.frombuffer(log, np.int64, count, 0) if len(log) >= LOG_ENTRY_BYTES * count else ():
            noted = int(entry)
            if not 0 < handover_flags(noted) <= self._entries:
                return False
            descriptor = self._ring[position(cursor)]
            descriptor["id"], descriptor["flags"] = handover_id(noted), used_flags(wraps(cursor))
            cursor = advance(cursor, handover_flags(noted), self._entries)
        return cursor == place & 0xFFFF

    def cursors(self) -> list[int]:
        """The places that nothing in the ring contradicts: one as a rule; of two, the earlier one first."""
        found: list[int] = []
        laps = self._lap(0), self._lap(1)
        for cursor in (cursor for wrap in (1, 0) for cursor in self._candidates(laps, wrap)):
            if cursor not in found and self._is_possible(laps, cursor):
                found.append(cursor)
        return found

    def _lap(self, wrap: int) -> _Lap:
        flags = self._ring["flags"]
        avail, used = (flags & DESC_F_AVAIL != 0) == bool(wrap), (flags & DESC_F_USED != 0) == bool(wrap)
        return _Lap(avail & used, avail & ~used, ~avail & ~used, ~avail & used, flags & DESC_F_NEXT != 0)

    def _candidates(self, laps: tuple[_Lap, _Lap], wrap: int) -> list[int]:
        """Behind all that was used, or made available again already, and behind a chain's remainder there.

        The beginning of a lap is the end of the one before.
        """
        lap = laps[wrap]
        begins = {_run(lap.other), *(np.flatnonzero(lap.used)[-1:] + 1).tolist()} - {0}
        cursors = [advance(wrap << 15, begin, self._entries) for begin in sorted(begins)]
        return [place for cursor in cursors for place in (cursor, self._behind_chain(laps, cursor))]

    def _behind_chain(self, laps: tuple[_Lap, _Lap], cursor: int) -> int:
        for _ in range(self._entries):
            at = position(cursor)
            if not laps[wraps(cursor)].available[at]:
                break
            cursor = advance(cursor, 1, self._entries)
            if not laps[0].goes_on[at]:
                break
        return cursor

    def _is_possible(self, laps: tuple[_Lap, _Lap], cursor: int) -> bool:
        """Whether each descriptor is what it can be with the device at ``cursor``."""
        lap, place = laps[wraps(cursor)], position(cursor)
        ahead = place + _run(lap.available[place:])
        again = _run(lap.other[:place])
        # The driver adds without a gap, and on the next lap only when this one is full. Nothing is used ahead of
        # the place, and nothing is left unused behind it.
        impossible = (
            lap.available[ahead:].any(),
            lap.used[place:].any(),
            lap.other[again:place].any(),
            lap.before[:place].any(),
            again and ahead < self._entries,
        )
        if any(impossible):
            return False
        # What is left of chains that were used stands behind their first descriptors.
        rests = (
            _follow(lap.other[ahead:], (lap.before | lap.other & lap.goes_on)[ahead:]),
            _follow(lap.available[again:place], (lap.used | lap.available & lap.goes_on)[again:place]),
        )
        if not all(rests):
            return False
        if place == 0:
            return self._is_chain_end(laps[1 - wraps(cursor)], ahead, self._entries)
        return self._is_chain_end(lap, again, place)

    def _is_chain_end(self, lap: _Lap, again: int, place: int) -> bool:
        """Whether what looks available right before ``place`` can be the rest of a chain that was used."""
        begin = place
        while begin > again and lap.available[begin - 1]:
            begin -= 1
        if begin == place:
            return True
        if lap.goes_on[place - 1]:
            return False
        # Its first descriptor was made available again; that of one from the end of the ring on, too.
        if (begin == again and again > 0) or (begin == 0 and lap.available[-1]):
            return True
        head = self._ring[begin - 1]
        if begin == 0 and not lap.before[-1]:
            return bool(lap.other[-1] and lap.goes_on[-1])
        # The id is in the last descriptor of a chain (2.8.6), and in the used one.
        return bool(head["id"] == self._ring[place - 1]["id"])


def _run(flags: Flags) -> int:
    """How many are set at the beginning."""
    unset = np.flatnonzero(~flags)
    return int(unset[0]) if len(unset) else len(flags)


def _follow(flags: Flags, leaders: Flags) -> bool:
    """Whether each that is set, but for the very first one, stands behind a leader."""
    return not bool((flags[1:] & ~leaders[:-1]).any())
