"""A worker in a thread of the test, with a driver's rings on one side and a packet socket as its TAP queue.

No vhost-user and no control process: what is tested is the data path alone, compiled or interpreted.
"""

import os
import socket
import threading
import uuid
from typing import Any, Self

from mpnet.guest.memory import Backing, GuestMemory
from mpnet.guest.queue import Queue
from mpnet.guest.receiver import Receiver
from mpnet.guest.sender import Sender
from mpnet.rpc.channel import Channel
from mpnet.rpc.worker import (
    AttachPair,
    Done,
    Failed,
    Region,
    Report,
    Request,
    SetMemory,
    SetRing,
    Shutdown,
    StopRing,
)
from mpnet.segment.layout import Engine
from mpnet.segment.segment import Segment
from mpnet.virtio.features import Feature, has, mask
from mpnet.virtio.packed_ring import FIRST_CURSOR
from mpnet.workers import warm
from mpnet.workers.worker import Worker

FEATURES = mask(
    Feature.VERSION_1,
    Feature.RING_EVENT_IDX,
    Feature.RING_INDIRECT_DESC,
    Feature.MRG_RXBUF,
    Feature.CSUM,
    Feature.GUEST_CSUM,
)
HEADER_BYTES = 12
PATIENCE = 60.0
"""Seconds: a limit for what hangs."""
assert warm  # compiled before any test waits for it


class Harness:
    """One queue pair of a device named by chance; use it as a context manager.

    Attributes:
        tap: our end of the "TAP": every frame is a packet with a 12-byte virtio-net header.
        coalescing: ``gro`` of the rings that are started next.
        segmenting: ``gso`` likewise.
    """

    def __init__(
        self,
        entries: int = 64,
        features: int = FEATURES,
        sizes: tuple[int, ...] = (16 << 20,),
        backing: Backing = "memfd",
        *,
        polled: bool = False,
        engine: Engine = Engine.URING,
        backend: str = "tap",
    ) -> None:
        self._backend = backend
        self.coalescing = self.segmenting = True
        self.features = features
        self.memory = GuestMemory(sizes, backing)
        self.rx = Queue(self.memory, 0, entries, features=features, polled=polled)
        self.tx = Queue(self.memory, 1, entries, features=features, polled=polled)
        header = HEADER_BYTES if features & mask(Feature.VERSION_1, Feature.MRG_RXBUF) else 10
        self.sender = Sender(self.tx, header)
        self.receiver = Receiver(self.rx, header, mergeable=has(features, Feature.MRG_RXBUF))
        self.tap, self._tap_queue = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.tap.settimeout(PATIENCE)
        self._tap_queue.settimeout(0)
        for end in (self.tap, self._tap_queue):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.segment = Segment.create(f"test-{uuid.uuid4().hex[:12]}", 1)
        self.segment.header.engine = engine
        self.reports: list[Any] = []
        self._start_worker()

    def _start_worker(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(PATIENCE)
        theirs.settimeout(0)
        self.channel = Channel(ours, Report)
        self.worker = Worker(self.segment, 0, Channel(theirs, Request))
        self._thread = threading.Thread(target=self._run_worker)
        self._thread.start()
        fds = [os.dup(self._tap_queue.fileno())] if self._backend == "tap" else []
        self.ask(AttachPair(0, self._backend), fds, ours=True)
        self.set_memory()

    def _run_worker(self) -> None:
        self.worker.open()
        self.worker.run()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_worker()
        self.rx.close()
        self.tx.close()
        self.memory.close()
        self.tap.close()
        self._tap_queue.close()
        self.segment.unlink()

    def stop_worker(self) -> None:
        """End the worker in good order."""
        if self._thread.is_alive():
            self.ask(Shutdown())
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self.worker.close()
        self.channel.close()

    def replace_worker(self) -> None:
        """Let another worker go on from shared memory."""
        self.stop_worker()
        self._start_worker()
        self.start(None)

    def ask(self, message: Any, fds: list[int] | None = None, *, ours: bool = False) -> Any:
        """Send a request and return its answer; fds are closed when they are ``ours`` to close."""
        self.channel.send(message, fds or [])
        if ours:
            for fd in fds or []:
                os.close(fd)
        while True:
            report, _ = self.channel.receive()
            if isinstance(report, Done | Failed):
                return report
            self.reports.append(report)

    def ask_to_stop(self, *rings: int) -> None:
        """Stop rings."""
        for index in rings:
            assert isinstance(self.ask(StopRing(index)), Done)

    def next_report(self) -> Any:
        """The next report that comes unasked."""
        if not self.reports:
            self.reports.append(self.channel.receive()[0])
        return self.reports.pop(0)

    def set_memory(self) -> Any:
        """Tell the worker the whole memory table."""
        regions = self.memory.regions
        table = [Region(r.guest_address, r.size, r.user_address, r.offset) for r in regions]
        return self.ask(SetMemory(table), [r.fd for r in regions])

    def start(self, base: int | None = 0, *, enabled: bool = True) -> list[Any]:
        """Start both rings, or change them; the answers."""
        return [self.set_ring(queue, base, enabled=enabled) for queue in (self.rx, self.tx)]

    def set_ring(self, queue: Queue, base: int | None = 0, *, enabled: bool = True, exact: bool = False) -> Any:
        """Start one ring, or change it; the answer. A packed ring's base 0 is its first, unless ``exact``."""
        ring = queue.ring
        if queue.packed and base == 0 and not exact:
            base = FIRST_CURSOR
        fds = [fd for fd in (ring.kick_fd, ring.call_fd, ring.err_fd) if fd is not None]
        spec = SetRing(
            index=ring.index,
            size=ring.size,
            descriptor_address=ring.descriptor_address,
            avail_address=ring.avail_address,
            used_address=ring.used_address,
            features=self.features,
            enabled=enabled,
            kick=ring.kick_fd is not None,
            call=ring.call_fd is not None,
            err=ring.err_fd is not None,
            coalesce=self.coalescing,
            segment=self.segmenting,
            base=base,
        )
        return self.ask(spec, fds)
