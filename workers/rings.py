"""The rings a worker serves: set up, changed, re-mapped and stopped between bursts."""

import ctypes
import os
from collections.abc import Sequence
from contextlib import suppress

from mpnet.errors import GuestMemoryError, MpnetError
from mpnet.jit.system_calls import Call
from mpnet.rpc.worker import SetRing
from mpnet.segment.layout import LOG_BYTES, SPILL_BYTES, DropReason, Fault, RingState
from mpnet.segment.segment import Segment
from mpnet.virtio import net_header, packed_ring, split_ring
from mpnet.virtio.features import Feature, has
from mpnet.workers.memory import GuestMemory
from mpnet.workers.packed import replay
from mpnet.workers.ring import ask_for_kick, break_ring, call
from mpnet.workers.standing import Standing
from mpnet.workers.state import ALL_WHOLE, COALESCE_ALL, ECHO, NULL, TAP, Context
from mpnet.workers.watch import Watch
from mpnet.workers.writer import Writer

SYSTEM_CALLS = (Call("preadv2"), Call("close"))
_BACKENDS = {"tap": TAP, "null": NULL, "echo": ECHO}


class Rings:
    """All rings of this worker's queue pairs, and the TAP queues behind them."""

    def __init__(self, ctx: Context, segment: Segment, memory: GuestMemory, watch: Watch, writer: Writer) -> None:
        self._ctx = ctx
        self._writer = writer
        self._segment = segment
        self._memory = memory
        self._watch = watch
        self._specs: dict[int, SetRing] = {}
        self._taps: dict[int, int] = {}
        self._control_index = 2 * segment.queue_pairs
        for ring in ctx.rings:
            ring.kick_fd = ring.call_fd = ring.err_fd = ring.tap_fd = -1

    @property
    def serving(self) -> bool:
        """Whether any ring is started."""
        return bool(self._specs)

    def serves(self, index: int) -> bool:
        """Whether ring ``index`` was started here."""
        return index in self._specs

    def attach_pair(self, pair: int, tap_fd: int, backend: str) -> None:
        """Serve a queue pair; the TAP queue's fd, -1 where there is none, is owned from here on."""
        if pair in self._taps:
            self.detach_pair(pair)
        self._writer.set_queue(pair, tap_fd)
        self._taps[pair] = tap_fd
        for index in (2 * pair, 2 * pair + 1):
            self._ctx.rings[index].tap_fd = tap_fd
            self._ctx.rings[index].backend = _BACKENDS[backend]
            self._ctx.rings[index].spill = self._segment.spill_address(pair)
        self._list_pairs()
        self._say_who_serves(pair, self._ctx.worker[0].slot + 1)

    def detach_pair(self, pair: int) -> None:
        """Forget a queue pair and its rings; their place stays in shared memory for whoever is next."""
        for index in self._rings_of(pair):
            self._forget(index)
        tap_fd = self._taps.pop(pair, -1)
        if tap_fd >= 0:
            self._watch.forget(tap_fd)
            self._writer.set_queue(pair, -1)
            os.close(tap_fd)
        self._list_pairs()
        self._say_who_serves(pair, 0)

    def set_ring(self, spec: SetRing, fds: Sequence[int]) -> None:
        """Start or change a ring; ``fds`` are owned from here on.

        Raises:
            GuestMemoryError: a part of it is not in guest memory; the ring is not started.
            MpnetError: its queue pair is not served here, or a part is misaligned.
        """
        index = spec.index
        received = iter(fds)
        kick, call_fd, err = (next(received) if there else -1 for there in (spec.kick, spec.call, spec.err))
        self._forget(index)
        ring = self._ctx.rings[index]
        ring.kick_fd, ring.call_fd, ring.err_fd = kick, call_fd, err
        if index // 2 not in self._taps and index != self._control_index:
            self._forget(index)
            raise MpnetError(f"ring {index} belongs to queue pair {index // 2}, which this worker does not serve")
        try:
            self._locate(spec)
            self._negotiate(spec)
            self._place(spec)
            self._watch_ring(index)
        except (MpnetError, OSError):
            self._forget(index)
            self._ctx.shared[index].state = RingState.STOPPED
            raise
        self._specs[index] = spec
        shared = self._ctx.shared[index]
        shared.entries = spec.size
        shared.fault = Fault.NONE
        shared.state = RingState.RUNNING if spec.enabled else RingState.DISABLED
        ring.started = ring.ready = ring.kicks_wanted = 1
        # Whoever served the ring before may have died between publishing and calling.
        ring.signalled = -1
        call(self._ctx, index)

    def stop_ring(self, index: int) -> int:
        """Stop a ring; returns its place: the next avail index, or position and wrap counter of a packed ring."""
        self._forget(index)
        self._ctx.shared[index].state = RingState.STOPPED
        self._ctx.shared[index].available_entries = 0
        return int(self._ctx.shared[index].place) & 0xFFFF

    def memory_changed(self) -> None:
        """Find every ring again after the memory table changed; one that is gone is broken."""
        for index, spec in self._specs.items():
            ring = self._ctx.rings[index]
            if not ring.started:
                continue
            try:
                self._locate(spec)
            except GuestMemoryError:
                break_ring(self._ctx, index, int(Fault.RING_ADDRESS))

    def mind_losses(self, culprit: int | None = None) -> None:
        """Break every ring that lies in memory that was lost, which would be empty for ever.

        Args:
            culprit: the ring that was being served when memory was lost just now, wherever it lies itself.
        """
        if culprit is not None and self._memory.unminded_loss and self._ctx.rings[culprit].started:
            break_ring(self._ctx, culprit, int(Fault.MEMORY_LOST))
        self._memory.mind_losses()
        for index, spec in self._specs.items():
            if not self._ctx.rings[index].started:
                continue
            try:
                self._locate(spec)
            except GuestMemoryError:
                break_ring(self._ctx, index, int(Fault.MEMORY_LOST))

    def close(self) -> None:
        """Let go of everything."""
        for pair in list(self._taps):
            self.detach_pair(pair)

    def _rings_of(self, pair: int) -> list[int]:
        rings = [2 * pair, 2 * pair + 1]
        return [*rings, self._control_index] if pair == 0 else rings

    def _say_who_serves(self, pair: int, worker: int) -> None:
        for index in self._rings_of(pair):
            self._ctx.shared[index].worker = worker

    def _list_pairs(self) -> None:
        for i, pair in enumerate(sorted(self._taps)):
            self._ctx.pairs[i] = pair
        self._ctx.worker[0].pairs = len(self._taps)

    def _forget(self, index: int) -> None:
        ring = self._ctx.rings[index]
        if ring.started and ring.packed:
            # Where it stands, for whoever is next: see _packed_place.
            ring.cursor = ring.place
            ask_for_kick(self._ctx, index)
        self._specs.pop(index, None)
        ring.started = ring.ready = ring.enabled = 0
        if index != self._control_index and index % 2 == 0:
            self._watch.forget(ring.tap_fd)
        self._watch.forget(ring.kick_fd)
        for fd in (ring.kick_fd, ring.call_fd, ring.err_fd):
            if fd >= 0:
                os.close(fd)
        ring.kick_fd = ring.call_fd = ring.err_fd = -1

    def _locate(self, spec: SetRing) -> None:
        """Find the ring's three parts in this process (VIRTIO 2.7, 2.8: their sizes and alignments)."""
        addresses = (spec.descriptor_address, spec.avail_address, spec.used_address)
        found = []
        for address, (name, size, alignment) in zip(addresses, _parts(spec), strict=True):
            found.append(self._memory.from_user(address, size))
            if found[-1] % alignment:
                raise GuestMemoryError(
                    f"the {name} of ring {spec.index} is at {found[-1]:#x}, expected a multiple of {alignment}"
                )
        ring = self._ctx.rings[spec.index]
        ring.descriptors, ring.avail, ring.used = found

    def _negotiate(self, spec: SetRing) -> None:
        ring = self._ctx.rings[spec.index]
        features = spec.features
        ring.entries = spec.size
        ring.packed = int(has(features, Feature.RING_PACKED))
        ring.log = self._segment.log_address(spec.index)
        ring.enabled = int(spec.enabled)
        ring.event_idx = int(has(features, Feature.RING_EVENT_IDX))
        ring.indirect = int(has(features, Feature.RING_INDIRECT_DESC))
        ring.mergeable = int(has(features, Feature.MRG_RXBUF))
        ring.offloads = int(has(features, Feature.GUEST_CSUM))
        ring.header_bytes = net_header.header_bytes(features)
        ring.expected = ring.batch = 1
        ring.shorts = 0
        ring.whole = _taken_whole(features) if spec.segment else ALL_WHOLE
        # Without GUEST_CSUM every frame's checksum is finished, in private memory.
        ring.staged = int(spec.segment and not ring.offloads)
        ring.coalesce = COALESCE_ALL if spec.coalesce else 0
        ring.accepted = 0

    def _place(self, spec: SetRing) -> None:
        """Where to go on: from shared memory, or, when control starts the ring, where the ring itself says.

        Chains are returned in the order in which they were made available, so a split ring's used index tells,
        also after a back-end that died without answering GET_VRING_BASE.
        """
        ring = self._ctx.rings[spec.index]
        shared = self._ctx.shared[spec.index]
        if spec.base is not None:
            shared.place = self._packed_place(spec) if ring.packed else split_ring.used_index(ring.used)
            if shared.spilled:
                shared.drops[DropReason.DISABLED] += 1
                shared.spilled = 0
        elif not 0 <= shared.spill_done <= shared.spilled <= SPILL_BYTES:
            shared.drops[DropReason.BROKEN] += 1
            shared.spilled = 0
        ring.place = int(shared.place) & 0xFFFF
        if not ring.packed:
            split_ring.publish_used(ring.used, ring.place)
        elif not replay(self._ctx, spec.index):
            raise MpnetError(
                f"ring {spec.index}: place {int(shared.place):#x} is none in a ring of {spec.size} descriptors"
            )

    def _packed_place(self, spec: SetRing) -> int:
        """Where a packed ring goes on that control starts, as a word for shared memory.

        After a back-end that died without answering GET_VRING_BASE front-ends tell where the last start was. So
        what is told is believed as long as the ring does not contradict it. Else the last burst of the device's
        last worker is finished, if that is what is missing; or the ring goes on where shared memory says, or what
        the device left in the ring's own event area, if that is possible; and else at the first place that is.
        """
        ring, shared = self._ctx.rings[spec.index], self._ctx.shared[spec.index]
        base, last = int(spec.base or 0) & 0xFFFF, int(shared.place)
        if packed_ring.position(base) >= spec.size:
            return base  # replay refuses it
        # User-Mode Linux says 0 for a new ring, as for a split one, where the wrap counter begins at 1.
        told = (base, packed_ring.FIRST_CURSOR) if base == 0 else (base,)
        table = ctypes.string_at(int(ring.descriptors), split_ring.descriptor_table_bytes(spec.size))
        possible = Standing(table).cursors()
        if not possible:
            return told[-1]
        if believed := [cursor for cursor in told if cursor in possible]:
            return believed[0]
        unfinished = Standing(table)
        log = ctypes.string_at(int(ring.log), LOG_BYTES)
        if unfinished.finish(log, last) and last & 0xFFFF in unfinished.cursors():
            return last
        left = int.from_bytes(ctypes.string_at(int(ring.used), 2), "little")
        return next((cursor for cursor in (last & 0xFFFF, left) if cursor in possible), possible[0])

    def _watch_ring(self, index: int) -> None:
        ring = self._ctx.rings[index]
        if index == self._control_index:
            self._watch.attention(ring.kick_fd)
            return
        if ring.kick_fd >= 0:
            _take_kicks(int(ring.kick_fd))
            self._watch.kick(ring.kick_fd, index)
        if index % 2 == 0 and ring.enabled and ring.tap_fd >= 0:
            self._watch.tap(ring.tap_fd, index)


def _taken_whole(features: int) -> int:
    """What a driver takes as the TAP gives it (VIRTIO 5.1.4.2): bit N for GSO type N, and GSO_ECN."""
    whole = 1 << net_header.GSO_NONE
    if has(features, Feature.GUEST_TSO4):
        whole |= 1 << net_header.GSO_TCPV4
    if has(features, Feature.GUEST_TSO6):
        whole |= 1 << net_header.GSO_TCPV6
    if has(features, Feature.GUEST_USO4) and has(features, Feature.GUEST_USO6):
        whole |= 1 << net_header.GSO_UDP_L4
    return whole | net_header.GSO_ECN if has(features, Feature.GUEST_ECN) else whole


def _parts(spec: SetRing) -> tuple[tuple[str, int, int], ...]:
    """Name, bytes and alignment of a ring's three parts."""
    size = spec.size
    table = split_ring.descriptor_table_bytes(size)
    if has(spec.features, Feature.RING_PACKED):
        event = packed_ring.EVENT_BYTES
        return (
            ("descriptor ring", table, 16),
            ("driver event suppression", event, 4),
            ("device event suppression", event, 4),
        )
    return (
        ("descriptor table", table, 16),
        ("available ring", split_ring.avail_bytes(size), 2),
        ("used ring", split_ring.used_bytes(size), 4),
    )


def _take_kicks(fd: int) -> None:
    """Empty a kick's eventfd, so that only kicks from now on count; the ring is looked at in any case.

    Others may read it meanwhile, or make it block: this read does not, whatever they do. A kernel that cannot
    read so leaves one kick too many.
    """
    with suppress(OSError):
        os.preadv(fd, [bytearray(8)], -1, os.RWF_NOWAIT)
