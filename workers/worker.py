"""A worker: messages from control on one side, the compiled loop on the other."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from mpnet.errors import MpnetError
from mpnet.jit.system_calls import Call
from mpnet.rpc.channel import Channel, ChannelClosedError
from mpnet.rpc.worker import (
    AttachPair,
    CompleteCommand,
    ControlCommand,
    DetachPair,
    Done,
    Failed,
    RingBroken,
    SetCapture,
    SetMemory,
    SetPolling,
    SetRing,
    Shutdown,
    StopRing,
    TraceBursts,
)
from mpnet.segment.layout import Engine, RingState
from mpnet.segment.segment import Segment
from mpnet.segment.trace import NO_SUBJECT, Kind
from mpnet.workers.capture import Captured
from mpnet.workers.control_queue import ControlQueue
from mpnet.workers.loop import serve
from mpnet.workers.memory import GuestMemory
from mpnet.workers.rings import Rings
from mpnet.workers.state import Scratch, make_context
from mpnet.workers.trace import trace
from mpnet.workers.watch import Watch
from mpnet.workers.writer import Writer

SYSTEM_CALLS = (Call("getpid"),)


class Worker:
    """One worker process's whole state.

    Args:
        segment: the device's shared memory.
        slot: this worker's record in it.
        channel: to control; non-blocking.
    """

    def __init__(self, segment: Segment, slot: int, channel: Channel) -> None:
        self._segment = segment
        self._channel: Channel | None = channel
        self._scratch = Scratch()
        self.ctx = make_context(segment.rings, segment.workers[slot : slot + 1], self._scratch)
        self.ctx.worker[0].slot = slot
        self.ctx.worker[0].trace_ring = segment.trace_address(slot)
        self._memory = GuestMemory(self.ctx)
        self.watch = Watch(self.ctx)
        self._writer = Writer(self.ctx, Engine(int(segment.header.engine)))
        self._rings = Rings(self.ctx, segment, self._memory, self.watch, self._writer)
        self._captured = Captured(self.ctx)
        self._control_index = 2 * segment.queue_pairs
        self._control_queue = ControlQueue(self.ctx, self._control_index, self._scratch)
        self._reported: set[int] = set()
        self.stopping = False
        self.watch.attention(channel.fileno())
        self._trace(Kind.WORKER_STARTED, NO_SUBJECT, os.getpid())

    def open(self) -> None:
        """Make what takes rights that a worker gives up; in the thread that serves, as the kernel wants it."""
        self._writer.open()

    def run(self) -> None:
        """Serve until control says stop; when control is gone, as long as there are rings to serve."""
        try:
            while not self.stopping:
                serve(self.ctx)
                self._mind_losses()  # before a message makes other rings of those that are to break
                self._take_messages()
                self._take_command()
                self._mind_losses()
                self._report_broken()
        finally:
            self._writer.close()

    def close(self) -> None:
        """Let go of rings, TAP queues, guest memory and the channel."""
        self._trace(Kind.WORKER_STOPPED, NO_SUBJECT, os.getpid())
        if self._channel is not None:
            self._channel.close()
        self._rings.close()
        self._memory.close()
        self.watch.close()

    def _take_messages(self) -> None:
        while self._channel is not None and not self.stopping:
            try:
                message, fds = self._channel.receive()
            except BlockingIOError:
                return
            except ChannelClosedError:
                self._control_is_gone()
                return
            self._send(self._answer(message, fds))

    def _control_is_gone(self) -> None:
        # Control's crash is no reason to stop forwarding; the next control finds this process and ends it.
        if self._channel is not None:
            self.watch.forget(self._channel.fileno())
            self._channel.close()
            self._channel = None
        self.stopping = not self._rings.serving

    def _send(self, report: msgspec.Struct) -> None:
        if self._channel is None:
            return
        try:
            self._channel.send(report)
        except ChannelClosedError:
            self._control_is_gone()

    def _answer(self, message: Any, fds: Sequence[int]) -> Done | Failed:
        handlers: dict[type, Callable[[Any, Sequence[int]], int]] = {
            SetMemory: self._set_memory,
            AttachPair: self._attach_pair,
            DetachPair: self._detach_pair,
            SetRing: self._set_ring,
            StopRing: self._stop_ring,
            SetPolling: self._set_polling,
            CompleteCommand: self._complete_command,
            TraceBursts: self._trace_bursts,
            SetCapture: self._set_capture,
            Shutdown: self._shutdown,
        }
        try:
            return Done(handlers[type(message)](message, fds))
        except MpnetError as error:
            return Failed(error.problem, error.remedy)
        except OSError as error:
            # Of a descriptor that came along: no reason to end.
            return Failed(f"{type(message).__name__}: {error.strerror}")

    def _set_memory(self, message: SetMemory, fds: Sequence[int]) -> int:
        try:
            self._memory.gather(message.regions, fds, first=message.first)
        finally:
            for fd in fds:
                os.close(fd)
        if not message.last:
            return 0
        self._memory.take()
        self._rings.memory_changed()
        regions = self._memory.regions
        self._trace(Kind.MEMORY_SET, NO_SUBJECT, len(regions), sum(region.size for region in regions))
        return 0

    def _attach_pair(self, message: AttachPair, fds: Sequence[int]) -> int:
        self._rings.attach_pair(message.pair, fds[0] if fds else -1, message.backend)
        self._trace(Kind.PAIR_ATTACHED, message.pair)
        return 0

    def _detach_pair(self, message: DetachPair, _fds: Sequence[int]) -> int:
        self._rings.detach_pair(message.pair)
        self._trace(Kind.PAIR_DETACHED, message.pair)
        return 0

    def _set_ring(self, message: SetRing, fds: Sequence[int]) -> int:
        self._reported.discard(message.index)
        if message.index == self._control_index:
            self._control_queue.stopped()
        known = self._rings.serves(message.index)
        self._rings.set_ring(message, fds)
        change = Kind.RING_ENABLED if message.enabled else Kind.RING_DISABLED
        kind = change if known else Kind.RING_STARTED
        self._trace(kind, message.index, message.size, int(self.ctx.rings[message.index].place))
        return 0

    def _stop_ring(self, message: StopRing, _fds: Sequence[int]) -> int:
        if message.index == self._control_index:
            self._control_queue.stopped()
        place = self._rings.stop_ring(message.index)
        self._trace(Kind.RING_STOPPED, message.index, place)
        return place

    def _set_polling(self, message: SetPolling, _fds: Sequence[int]) -> int:
        own = self.ctx.worker[0]
        own.poll_ns = 1000 * message.microseconds
        own.window_ns = 0
        return 0

    def _complete_command(self, message: CompleteCommand, _fds: Sequence[int]) -> int:
        self._control_queue.complete(message.ack)
        self._mind_losses(self._control_index)
        return 0

    def _trace_bursts(self, message: TraceBursts, _fds: Sequence[int]) -> int:
        self.ctx.worker[0].trace_bursts = int(message.on)
        return 0

    def _set_capture(self, message: SetCapture, fds: Sequence[int]) -> int:
        self._captured.end()
        for fd in fds:
            try:
                self._captured.set(message, fd)
            finally:
                os.close(fd)
        return 0

    def _trace(self, kind: Kind, subject: int, first: int = 0, second: int = 0) -> None:
        trace(self.ctx, int(kind), subject, first, second)

    def _shutdown(self, _message: Shutdown, _fds: Sequence[int]) -> int:
        self.stopping = True
        return 0

    def _take_command(self) -> None:
        ring = self.ctx.rings[self._control_index]
        if ring.started:
            ring.ready = 1
            command = self._control_queue.take()
            self._mind_losses(self._control_index)
            if command is not None and ring.started:
                self._send(ControlCommand(command))

    def _mind_losses(self, culprit: int | None = None) -> None:
        """Break the rings whose memory was lost, if there may be any."""
        if self.ctx.worker[0].broken or self._memory.unminded_loss:
            self._rings.mind_losses(culprit)

    def _report_broken(self) -> None:
        worker = self.ctx.worker[0]
        if not worker.broken:
            return
        worker.broken = 0
        for index, shared in enumerate(self.ctx.shared):
            mine = self._rings.serves(index)
            if mine and shared.state == RingState.BROKEN and index not in self._reported:
                self._reported.add(index)
                self._send(RingBroken(index, int(shared.fault)))
