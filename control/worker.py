"""Control's proxy of one worker process: requests, reports, its end, and the ladder that stops it."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from mpnet.control.budget import Budget
from mpnet.control.descriptors import close_aside
from mpnet.control.fork_server import Process
from mpnet.control.launcher import Launcher
from mpnet.errors import MpnetError
from mpnet.foreign import readable
from mpnet.rpc.channel import Channel, ChannelClosedError
from mpnet.rpc.worker import ControlCommand, Done, Failed, Forbidden, Isolated, Request, RingBroken, Shutdown
from mpnet.segment.layout import Code, RestartReason
from mpnet.segment.segment import Segment

_STATUS_SECONDS = 10.0


class WorkerLostError(MpnetError):
    """The worker ended, or does not answer; the supervisor replaces it."""


class LaunchError(WorkerLostError):
    """No process could be made."""


class WorkerRefusedError(MpnetError):
    """The worker said that it could not do what was asked, and changed nothing."""


_MOST_AT_ONCE = 16
"""Reports of a worker that are taken before others have a turn."""
_MOST_STAGES = 16
"""More than isolation has."""
_MOST_LEFT = 4096
"""More than a socket holds of them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long control waits, in seconds.

    Attributes:
        start: for a new worker's first answer, on a machine that is busy.
        answer: for any later one, and for the next heartbeat.
        leave: for the worker to end by itself when asked.
        terminate: for it to end after SIGTERM, and again after SIGKILL.
    """

    start: float = 60.0
    answer: float = 5.0
    leave: float = 2.0
    terminate: float = 1.0


@dataclass(frozen=True, slots=True)
class Ending:
    """How a worker ended.

    Attributes:
        reason: the label it is counted under.
        detail: for the log: the signal's name, the exit status, or what it did not do.
    """

    reason: RestartReason
    detail: str


@dataclass(frozen=True, slots=True)
class Listener:
    """Who hears of what a worker does unasked.

    Attributes:
        reported: a ring broke, the control queue has a command, or the worker is isolated.
        ended: the process is gone, and nobody had asked it to.
        budget: of control's time for what workers say; those of a device share it, as they share their guest.
    """

    reported: Callable[["Worker", RingBroken | ControlCommand | Isolated], None]
    ended: Callable[["Worker", Ending], None]
    budget: Budget = field(default_factory=Budget)


class Worker:
    """One worker process; made by ``Worker(...)`` and ``await start()``, never used again after its end.

    Args:
        segment: the device's shared memory.
        slot: its place among the device's workers.
        launcher: what starts it.
        listener: who hears of it.
        limits: how long to wait for it.
    """

    def __init__(
        self, segment: Segment, slot: int, launcher: Launcher, listener: Listener, limits: Limits | None = None
    ) -> None:
        self._segment = segment
        self.slot = slot
        self.ending: Ending | None = None
        self.pid = 0
        self.cpu: int | None = None
        self.code = Code.UNKNOWN
        self.started = time.monotonic()
        self._launcher = launcher
        self._listener = listener
        self._limits = limits or Limits()
        self._turn = asyncio.Lock()
        self._gone = asyncio.Event()
        self._answer: asyncio.Future[Done | Failed] | None = None
        self._abandoned = 0  # answers still to come that nobody waits for any more
        self._answered = False
        self._asked_to_stop = False
        self._fault = ""
        self._forbidden = ""
        self.unisolated: dict[str, str] | None = None
        self._process: Process | None = None
        self._channel: Channel | None = None
        self._pidfd = -1
        self._farewell: asyncio.Task[None] | None = None

    async def start(self, cpu: int | None = None) -> None:
        """Start the process.

        Args:
            cpu: the processor to pin it to.

        Raises:
            LaunchError: no process could be made.
        """
        loop = asyncio.get_running_loop()
        try:
            launched = await self._launcher.launch(self._segment.name, self.slot, self._segment.fd)
        except OSError as error:
            self._gone.set()
            raise LaunchError(f"{self} could not be started ({error})") from error
        self._process, self._channel, self.code = launched.process, launched.channel, launched.code
        self.pid, self._pidfd = self._process.pid, self._process.pidfd
        self.started = time.monotonic()
        loop.add_reader(self._pidfd, self._process_ended)
        loop.add_reader(self._channel.fileno(), self._readable)
        if cpu is not None:
            self._pin(cpu)

    def __str__(self) -> str:
        return f"worker {self.slot} of device {self._segment.name}"

    def _pin(self, cpu: int) -> None:
        try:
            os.sched_setaffinity(self.pid, {cpu})
        except OSError:
            return  # it has ended, which its pidfd says; or the processor has gone offline
        self.cpu = cpu

    @property
    def alive(self) -> bool:
        """Whether it can still be asked something."""
        return self._channel is not None and self.ending is None and not self._fault

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self.started

    async def request(self, message: Request, fds: Sequence[int] = ()) -> int:
        """Ask one thing, after what was asked before; return ``Done.value``.

        Raises:
            WorkerRefusedError: the worker refused.
            WorkerLostError: it ended, or did not answer in time and is being killed.
        """
        async with self._turn:
            if not self.alive or self._channel is None:
                raise WorkerLostError(f"{self} has ended")
            self._answer = asyncio.get_running_loop().create_future()
            limit = self._limits.answer if self._answered else self._limits.start
            name = type(message).__name__
            try:
                self._channel.send(message, fds)
                answer = await asyncio.wait_for(self._answer, limit)
            except (TimeoutError, BlockingIOError):
                self.give_up(f"no answer to {name} for {limit:g} s")
                raise WorkerLostError(f"{self} did not answer {name} for {limit:g} s") from None
            except ChannelClosedError:
                raise WorkerLostError(f"{self} has ended") from None
            finally:
                if not self._answer.done() or self._answer.cancelled():
                    self._abandoned += 1
                self._answer = None
        self._answered = True
        if isinstance(answer, Failed):
            raise WorkerRefusedError(answer.problem, answer.remedy)
        return answer.value

    def silence(self, heartbeat_ns: int) -> float:
        """Seconds without a sign of life.

        Args:
            heartbeat_ns: the last heartbeat in the segment, CLOCK_MONOTONIC.
        """
        return time.monotonic() - max(self.started, heartbeat_ns / 1e9)

    def patience(self) -> float:
        """Seconds of silence after which it counts as hung."""
        return self._limits.answer if self._answered else self._limits.start

    def give_up(self, fault: str) -> None:
        """Kill it for hanging or talking nonsense; its end is reported as HUNG with ``fault``."""
        if self.ending is None and not self._fault:
            self._fault = fault
            self._signal(signal.SIGKILL)

    async def bury(self) -> None:
        """Make sure that a lost worker is gone and touches nothing any more."""
        self._signal(signal.SIGKILL)
        await self._left_within(self._limits.terminate)

    async def stop(self) -> str:
        """Stop it by the ladder: ask, SIGTERM, SIGKILL; return the step that did it, empty when none did."""
        self._asked_to_stop = True
        if await self._ask_to_leave():
            return "Shutdown"
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._signal(number)
            if await self._left_within(self._limits.terminate):
                return number.name
        return ""

    async def _ask_to_leave(self) -> bool:
        try:
            await asyncio.wait_for(self.request(Shutdown()), self._limits.leave)
        except (WorkerLostError, WorkerRefusedError, TimeoutError):
            return await self._left_within(0)
        return await self._left_within(self._limits.leave)

    async def _left_within(self, seconds: float) -> bool:
        if self._gone.is_set():
            return True
        try:
            await asyncio.wait_for(self._gone.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _signal(self, number: signal.Signals) -> None:
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                return  # it has ended: the pidfd is about to say so

    def _readable(self) -> None:
        """Take some of what has come over the channel; more than a worker's share of control's time waits."""
        begun = time.perf_counter()
        self._receive(_MOST_AT_ONCE)
        self._listener.budget.spend(time.perf_counter() - begun)
        if self._channel is not None and (debt := self._listener.budget.debt):
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._channel.fileno())
            loop.call_later(debt, self._read_on)

    def _read_on(self) -> None:
        if self._channel is not None:
            asyncio.get_running_loop().add_reader(self._channel.fileno(), self._readable)

    def _receive(self, most: int) -> None:
        """Take what has come over the channel, that many messages at most."""
        for _ in range(most):
            if self._channel is None:
                return
            try:
                report, fds = self._channel.receive()
            except BlockingIOError:
                return
            except ChannelClosedError:
                self._forget_channel()
                return
            except (msgspec.ValidationError, ValueError) as error:
                self.give_up(f"it sent a message that is none ({error})")
                return
            if fds:
                # None of ours sends any. A front-end may have chosen them, and what closing them waits for.
                close_aside(fds)
                self.give_up("it sent descriptors")
                return
            try:
                self._take(report)
            except Exception as error:  # noqa: BLE001 - a worker that a guest has taken over may say anything
                self.give_up(f"it reported what cannot be ({error!r})")
                return

    def _take(self, report: Any) -> None:
        if isinstance(report, Isolated):
            report = Isolated(_told(report.missing))
            self.unisolated = report.missing
        if isinstance(report, Forbidden):
            call, where = readable(report.call.encode()), readable(report.where.encode())
            self._forbidden = f"system call {call}, which it has not declared, at {where}"
        elif isinstance(report, RingBroken | ControlCommand | Isolated):
            self._listener.reported(self, report)
        elif self._abandoned:
            self._abandoned -= 1
        elif self._answer is not None and not self._answer.done():
            self._answer.set_result(report)

    def _forget_channel(self) -> None:
        if self._channel is not None:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            close_aside((self._channel.sock.detach(),))  # descriptors may be queued in it
            self._channel = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(WorkerLostError(f"{self} has ended"))

    def _process_ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        self._farewell = asyncio.create_task(self._finish())

    async def _status(self) -> int | None:
        """How it ended; None when nobody can tell: its server has died, or is stopped and does not say."""
        if self._process is None:
            return None
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(self._process.status), _STATUS_SECONDS)
        return None

    async def _finish(self) -> None:
        code = await self._status()
        self._receive(_MOST_LEFT)  # what it said last
        self.ending = _ending(code, self._fault, self._forbidden)
        self._forget_channel()
        self._gone.set()
        if not self._asked_to_stop:
            self._listener.ended(self, self.ending)


def _told(missing: dict[str, str]) -> dict[str, str]:
    """What a worker lacks of its isolation, as it may be logged."""
    if len(missing) > _MOST_STAGES:
        raise ValueError(f"{len(missing)} stages of isolation, expected {_MOST_STAGES} at most")
    return {readable(name.encode()): readable(why.encode()) for name, why in missing.items()}


def _ending(code: int | None, fault: str, forbidden: str) -> Ending:
    if fault:
        return Ending(RestartReason.HUNG, fault)
    if code is None:
        return Ending(RestartReason.EXITED, "its status was lost with the process that forked it")
    if code == -signal.SIGSYS:
        return Ending(RestartReason.FORBIDDEN, forbidden or "SIGSYS")
    if code < 0:
        return Ending(RestartReason.KILLED, _signal_name(-code))
    return Ending(RestartReason.EXITED, f"status {code}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
