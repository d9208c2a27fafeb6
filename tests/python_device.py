"""The device's side of the embedded driver's split queues, in a few lines of Python."""

import struct

from mpnet.guest.queue import Queue


class PythonDevice:
    """The device's side of a split queue, over guest memory."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.memory = queue.memory
        self.last = self.used = 0

    def heads(self) -> list[int]:
        """Chains made available since last asked."""
        size = self.queue.ring.size
        flags_index_entries = self.memory.read(self.queue.guest.avail, 4 + 2 * size)
        index, *entries = struct.unpack(f"<xxH{size}H", flags_index_entries)
        fresh = [entries[i % size] for i in range(self.last, self.last + ((index - self.last) & 0xFFFF))]
        self.last = index
        return fresh

    def buffers(self, head: int) -> list[tuple[int, int, int]]:
        """Address, length and flags of every descriptor of a chain, indirect ones resolved."""
        table, rows, index = self.queue.guest.descriptors, [], head
        while True:
            row = self.memory.read(table + 16 * index, 16)
            address, length, flags, index = struct.unpack("<QIHH", row)
            if flags & 4:
                table, index = address, 0
                continue
            rows.append((address, length, flags))
            if not flags & 1:
                return rows

    def gather(self, head: int) -> bytes:
        return b"".join(self.memory.read(address, length) for address, length, _ in self.buffers(head))

    def give_back(self, head: int, length: int = 0) -> None:
        place = self.queue.guest.used + 4 + 8 * (self.used % self.queue.ring.size)
        self.memory.write(place, struct.pack("<II", head, length))
        self.used = (self.used + 1) & 0xFFFF
        self.memory.write(self.queue.guest.used + 2, struct.pack("<H", self.used))

    def scatter(self, head: int, data: bytes) -> None:
        rest = data
        for address, length, flags in self.buffers(head):
            assert flags & 2
            self.memory.write(address, rest[:length])
            rest = rest[length:]
        assert not rest
        self.give_back(head, len(data))
