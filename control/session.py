"""One front-end's connection: its socket on one side, the vhost-user machine and the device on the other."""

import asyncio
import socket
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mpnet.control import descriptors, sharing
from mpnet.control.budget import Budget
from mpnet.control.device import Device
from mpnet.control.peer import Peer
from mpnet.control.sockets import readable, writable
from mpnet.errors import MpnetError
from mpnet.segment.layout import MESSAGE_BUCKETS_NS
from mpnet.segment.trace import Kind
from mpnet.vhost_user.effects import Close, CloseFds, Effect, Send
from mpnet.vhost_user.framing import Framer, FramingError
from mpnet.vhost_user.messages import Message, Request

_MOST_FDS = 253
"""SCM_MAX_FD of Linux: none is cut off, so that the framer sees and refuses too many."""
_SEND_SECONDS = 5.0
_MESSAGE_SECONDS = 5.0
"""For the rest of a message that has begun, and for the first one of a front-end that keeps others out."""
_LEFT = "it left"


class SessionEndedError(Exception):
    """The connection is over; the argument says why."""


class Session:
    """Serves a connected front-end until it leaves or breaks the protocol.

    Args:
        device: what it attaches to; it has no other session.
        sock: the connection, non-blocking; the session owns it from here on.
        budget: of the event loop's time, which ``metered`` notes; between two messages the session keeps to it.
        patient: wait for the first message for as long as it takes: nobody else is waiting.
    """

    def __init__(
        self, device: Device, sock: socket.socket, budget: Budget | None = None, *, patient: bool = False
    ) -> None:
        self._device = device
        self._sock = sock
        self._budget = budget or Budget()
        self._patient = patient
        self._framer = Framer()
        self._hung_up = asyncio.Event()
        self._told_of_memory = False
        self.ending = False
        """Whether the front-end has left and the device is being freed of it."""
        self.fruitless = True
        """Whether the front-end left before it had negotiated features."""

    async def run(self) -> None:
        """Serve until the end, then leave the device as if nobody had been there."""
        device = self._device
        peer = Peer.of(self._sock)
        reason = "the session failed"
        try:
            device.peer = peer
            device.segment.header.connections += 1
            device.backend.log.clear()  # what the last one asked for is not this one's reason
            device.trace(Kind.SESSION_OPENED, peer.pid)
            device.note_stage()
            device.log.info("front-end connected", pid=peer.pid, name=peer.name)
            while True:
                message = await self._receive()
                begun = time.monotonic_ns()
                await self._answer(message)
                self._count(time.monotonic_ns() - begun)
                self._patient = True
                await self._give_way()
        except SessionEndedError as end:
            reason = "the device is being stopped" if self._hung_up.is_set() else self._why(str(end))
        finally:
            self.ending = True
            self.fruitless = device.backend.features == 0
            await self._end()
            device.trace(Kind.SESSION_CLOSED, peer.pid)
            device.log.info("front-end disconnected", reason=reason)

    def _why(self, reason: str) -> str:
        """Say more of a front-end that left: what it was refused, else what QEMU leaves for in silence.

        That is when it wants more queues than it can have.
        """
        backend = self._device.backend
        if reason != _LEFT:
            return reason
        if refused := [entry for entry in backend.log if entry.outcome != "ok"]:
            return f"{reason} after its {refused[-1].request} was refused: {refused[-1].outcome}"
        asked = any(entry.request == Request.GET_QUEUE_NUM.name for entry in backend.log)
        if backend.features or not asked:
            return reason
        pairs = backend.offer.queue_pairs
        return (
            f"{reason} before it negotiated; {pairs} queue pairs are the most it can have (QEMU: queues={pairs})"
        )

    def hang_up(self) -> None:
        """Have ``run`` come to its end; unlike cancelling it, this leaves nothing half done."""
        self._hung_up.set()
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    async def _receive(self) -> Message:
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(
                    self._sock, self._framer.wanted, _MOST_FDS, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                await self._until_readable()
                continue
            except ConnectionError as error:
                raise SessionEndedError(error.strerror) from error
            if not data:
                raise SessionEndedError("in the middle of a message" if self._framer.midway else _LEFT)
            try:
                message = self._framer.feed(data, fds)
            except FramingError as error:
                await descriptors.close_foreign(error.fds, self._hung_up)
                raise SessionEndedError(str(error)) from error
            if message:
                return message

    async def _until_readable(self) -> None:
        waits = self._patient and not self._framer.midway
        try:
            async with asyncio.timeout(None if waits else _MESSAGE_SECONDS):
                await readable(self._sock)
        except TimeoutError:
            what = "the rest of its message" if self._framer.midway else "its first message"
            raise SessionEndedError(f"{what} did not come for {_MESSAGE_SECONDS:g} s") from None

    async def _give_way(self) -> None:
        """Let others have the event loop, for as long as this front-end has used more than its share."""
        await asyncio.sleep(0)
        if debt := self._budget.debt:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hung_up.wait(), debt)
        if self._hung_up.is_set():
            # What it had sent before can be read still.
            raise SessionEndedError(_LEFT)

    async def _answer(self, message: Message) -> None:
        """Have the machine and the device carry out one message."""
        backend = self._device.backend
        message, problem = await descriptors.admit(message, self._hung_up)
        try:
            for effect in self._received(message, problem):
                await self._perform(effect)
        except MpnetError as error:
            following = backend.failed(str(error))
            # Before the descriptors of the request are closed: a part of it may have been carried out.
            await self._device.fall_back()
        else:
            following = backend.done()
        for effect in following:
            await self._perform(effect)
        self._device.note_stage()
        entry = backend.log[-1] if backend.log else None
        if entry and entry.outcome != "ok":
            self._device.trace(Kind.REQUEST_REFUSED, message.request)
            self._device.log.warning("request refused", request=entry.request, problem=entry.outcome)

    def _received(self, message: Message, problem: str) -> list[Effect]:
        """Have the machine take a message, or refuse it for the ``problem`` that its descriptors are.

        A ring for which there is no memory is told, once, with the remedy.
        """
        backend = self._device.backend
        if problem:
            return backend.refuse(message, problem)
        before = backend.unmapped_rings
        effects = backend.receive(message)
        if backend.unmapped_rings > before and not self._told_of_memory:
            self._told_of_memory = True
            regions = len(backend.regions)
            self._device.log.error("guest memory is not shared", regions=regions, remedy=sharing.REMEDY)
        return effects

    def _count(self, nanoseconds: int) -> None:
        """Count an answered message by how long it took."""
        header = self._device.segment.header
        header.messages[bisect_left(MESSAGE_BUCKETS_NS, nanoseconds)] += 1
        header.message_ns += nanoseconds

    async def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(data, fds):
                await self._send(data, fds)
            case Close(reason):
                raise SessionEndedError(reason)
            case CloseFds(fds):
                await descriptors.close_admitted(fds, self._hung_up)
            case _:
                await self._device.perform(effect)

    async def _send(self, data: bytes, fds: tuple[int, ...]) -> None:
        while data:
            try:
                sent = socket.send_fds(self._sock, [data], list(fds))
            except BlockingIOError:
                await self._until_writable()
                continue
            except OSError as error:
                raise SessionEndedError(error.strerror) from error
            data, fds = data[sent:], ()

    async def _until_writable(self) -> None:
        try:
            await asyncio.wait_for(writable(self._sock), _SEND_SECONDS)
        except TimeoutError:
            raise SessionEndedError(f"it takes no answer for {_SEND_SECONDS:g} s") from None

    async def _end(self) -> None:
        """Free the device of this front-end: each step is taken, whatever has become of the one before."""
        device = self._device
        with self._going_on():
            device.renew_offer()
        effects = device.backend.disconnected()
        for effect in effects:
            if not isinstance(effect, CloseFds):
                with self._going_on():
                    await device.perform(effect)
        with self._going_on():
            await device.forget_session()
        device.note_stage()
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        for effect in effects:
            if isinstance(effect, CloseFds):
                await descriptors.close_admitted(effect.fds, self._hung_up)
        # Descriptors may be queued in the connection, too, that nobody has looked at.
        await descriptors.close_foreign((*self._framer.abandon(), self._sock.detach()), self._hung_up)

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._device.log.error("session not wholly forgotten", problem=str(error), exc_info=error)
