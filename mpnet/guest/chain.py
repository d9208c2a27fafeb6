"""How a buffer becomes a chain of descriptors: any cut, direct or indirect, at any address."""

import struct
from dataclasses import dataclass

import numpy as np

from mpnet.guest.memory import GuestMemory
from mpnet.guest.virtqueue import Chain
from mpnet.virtio.split_ring import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESCRIPTOR_BYTES

GUARD_BYTES = 8
"""Bytes left between pieces, so that one written past its end shows."""
_GUARD = b"\xa5" * GUARD_BYTES
_DESCRIPTOR = struct.Struct("<QIHH")


@dataclass(frozen=True, slots=True)
class Layout:
    """How one buffer, header included, is laid out; the default is a single descriptor.

    Args:
        cuts: lengths of the leading pieces; what is left over is one piece more. ``(12,)`` gives the header its
            own descriptor, ``(5,)`` splits it.
        direct: pieces that have descriptors of their own in the queue's table; the others share one indirect
            table (VIRTIO 2.7.5.3). None: all.
        at: guest address of the first piece, the others follow; None: anywhere, with guards between.
        table_at: guest address of the indirect table; None: anywhere.
    """

    cuts: tuple[int, ...] = ()
    direct: int | None = None
    at: int | None = None
    table_at: int | None = None

    def pieces(self, size: int) -> list[int]:
        """Lengths of the pieces of a buffer of ``size`` bytes."""
        lengths: list[int] = []
        for cut in self.cuts:
            if size <= cut:
                break
            lengths.append(cut)
            size -= cut
        return [*lengths, size]


PLAIN = Layout()
"""One direct descriptor."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """A buffer in guest memory with its descriptors.

    Attributes:
        spans: (guest address, length) of each piece.
        chain: the rows to add to the queue; an indirect table is written already.
        guarded: there are guards behind the pieces.
    """

    spans: tuple[tuple[int, int], ...]
    chain: Chain
    guarded: bool


class Arena:
    """A stretch of guest memory that buffers are placed in, one behind the other, until ``clear``.

    Args:
        memory: where it is.
        size: bytes.
        packed: indirect tables are for a packed queue: their flags stand elsewhere (VIRTIO 2.8.7).
    """

    def __init__(self, memory: GuestMemory, size: int, *, packed: bool = False) -> None:
        self.memory = memory
        self._packed = packed
        self._start = self._next = memory.allocate(size)
        self._end = self._start + size

    def clear(self) -> None:
        """Start over; no buffer may be with the device."""
        self._next = self._start

    def place(self, size: int, layout: Layout, *, writable: bool) -> Buffer | None:
        """Lay out a buffer of ``size`` bytes; None when there is no room left."""
        lengths = layout.pieces(size)
        if self._needed(lengths, layout) > self._end - self._next:
            return None
        spans = self._spans(lengths, layout)
        rows = [(address, length, DESC_F_WRITE * writable) for address, length in spans]
        direct = len(rows) if layout.direct is None else min(layout.direct, len(rows))
        if direct < len(rows):
            rows = [*rows[:direct], self._table(rows[direct:], layout)]
        return Buffer(tuple(spans), np.array(rows, np.int64), layout.at is None)

    def _needed(self, lengths: list[int], layout: Layout) -> int:
        pieces = sum(lengths) + GUARD_BYTES * len(lengths) if layout.at is None else 0
        table = DESCRIPTOR_BYTES * (len(lengths) + 1) if layout.table_at is None else 0
        return pieces + table

    def _spans(self, lengths: list[int], layout: Layout) -> list[tuple[int, int]]:
        address = self._next if layout.at is None else layout.at
        spans = []
        for length in lengths:
            spans.append((address, length))
            address += length
            if layout.at is None:
                self.memory.write(address, _GUARD)
                address += GUARD_BYTES
        if layout.at is None:
            self._next = address
        return spans

    def _table(self, rows: list[tuple[int, int, int]], layout: Layout) -> tuple[int, int, int]:
        if self._packed:
            table = b"".join(_DESCRIPTOR.pack(address, length, 0, flags) for address, length, flags in rows)
        else:
            table = b"".join(
                _DESCRIPTOR.pack(address, length, flags | DESC_F_NEXT * (number < len(rows)), number % len(rows))
                for number, (address, length, flags) in enumerate(rows, 1)
            )
        address = -(-self._next // DESCRIPTOR_BYTES) * DESCRIPTOR_BYTES
        if layout.table_at is None:
            self._next = address + len(table)
        else:
            address = layout.table_at
        self.memory.write(address, table)
        return address, len(table), DESC_F_INDIRECT

    def fill(self, buffer: Buffer, data: bytes) -> None:
        """Write ``data`` into a buffer."""
        done = 0
        for address, length in buffer.spans:
            self.memory.write(address, data[done : done + length])
            done += length

    def contents(self, buffer: Buffer, size: int) -> bytes:
        """Read a buffer's first ``size`` bytes."""
        data = b"".join(self.memory.read(address, length) for address, length in buffer.spans)
        return data[:size]

    def guards_stand(self, buffer: Buffer) -> bool:
        """Tell whether nothing was written behind any piece of a buffer."""
        if not buffer.guarded:
            return True
        return all(self.memory.read(address + length, GUARD_BYTES) == _GUARD for address, length in buffer.spans)
