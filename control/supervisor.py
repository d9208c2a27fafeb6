"""Keeps the workers of one device: M processes for N queue pairs, replaced and moved while packets flow."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from mpnet.config.device import spread
from mpnet.control.backoff import Backoff
from mpnet.control.desired import Desired, Errand, RingSetting
from mpnet.control.launcher import Launcher
from mpnet.control.log import Log
from mpnet.control.tasks import Tasks
from mpnet.control.worker import (
    Ending,
    LaunchError,
    Limits,
    Listener,
    Worker,
    WorkerLostError,
    WorkerRefusedError,
)
from mpnet.errors import MpnetError
from mpnet.rpc.worker import (
    CompleteCommand,
    ControlCommand,
    DetachPair,
    Isolated,
    Request,
    RingBroken,
    SetCapture,
    SetRing,
    StopRing,
    TraceBursts,
)
from mpnet.segment.layout import Code, RingState
from mpnet.segment.segment import Segment
from mpnet.segment.trace import Kind
from mpnet.vhost_user.effects import MemoryRegion

WATCH_SECONDS = 1.0
IMPROVE_SECONDS = 10.0
"""How long a worker that could not be replaced by a better one goes on before the next attempt."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a device gives its supervisor.

    Attributes:
        segment: the device's shared memory.
        launcher: what starts processes.
        log: carries the device's name.
        cpus: processors to pin workers to, in turn; empty for none.
        reported: called with what a worker tells unasked.
        limits: how long to wait for workers.
    """

    segment: Segment
    launcher: Launcher
    log: Log
    cpus: tuple[int, ...]
    reported: Callable[[RingBroken | ControlCommand], None]
    limits: Limits


class Supervisor:
    """The workers of one device.

    Everything that changes what workers serve goes through here, one change at a time. ``desired`` is changed
    first and the workers are told after: one that is lost meanwhile is replaced by one that is told all of it.
    """

    def __init__(self, desired: Desired, surroundings: Surroundings) -> None:
        self.desired = desired
        self.workers: dict[int, Worker] = {}
        self.owner: list[int] = []
        self._around = surroundings
        self.count = 0
        self._lock = asyncio.Lock()
        self._backoffs: dict[int, Backoff] = {}
        self._tasks = Tasks(surroundings.log)
        self._unisolated: dict[str, str] = {}
        self._running = False
        self._improve_at = 0.0
        self._stopping = asyncio.Event()
        self._listener = Listener(self._reported, self._ended)

    async def start(self, workers: int) -> None:
        """Start ``workers`` processes, all at once.

        Raises:
            MpnetError: one ended, or refused its queue pairs.
        """
        self.owner = spread(len(self.desired.tap_fds), workers)
        self.count = workers
        # Not a TaskGroup: it would cancel the siblings of one that failed, and a fork cannot be called back.
        results = await asyncio.gather(*(self._bring_up(slot) for slot in range(workers)), return_exceptions=True)
        failures = [result for result in results if result is not None]
        if failures:
            await self.stop()
            raise failures[0]
        self._running = True
        self._around.segment.header.workers = workers
        self._tasks.keep(self._watch)

    async def stop(self) -> None:
        """Stop every worker by the ladder, and whatever was going to replace one."""
        self._running = False
        self._stopping.set()
        await self._dismiss_all()
        await self._tasks.finish()
        # A replacement may have been on its way.
        await self._dismiss_all()

    async def set_memory(self, regions: tuple[MemoryRegion, ...]) -> None:
        """Map a memory table in every worker, or in none.

        Raises:
            WorkerRefusedError: a worker could not map it.
        """
        async with self._lock:
            before, self.desired.regions = self.desired.regions, regions
            try:
                await self._tell_memory()
            except WorkerRefusedError:
                self.desired.regions = before
                with contextlib.suppress(WorkerRefusedError):
                    await self._tell_memory()
                raise

    async def set_queues(self, tap_fds: list[int | None]) -> None:
        """Have the workers serve the queue pairs on other TAP queues from now on."""
        async with self._lock:
            self.desired.tap_fds = tap_fds
            for pair, slot in enumerate(self.owner):
                with contextlib.suppress(WorkerRefusedError):
                    await self._tell(slot, DetachPair(pair))
                for message, fds in self.desired.pair_errands(pair):
                    await self._insist(slot, message, fds)

    async def _tell_memory(self) -> None:
        for errand in self.desired.memory_errands():
            await self._tell_all(errand)

    async def set_polling(self, microseconds: int) -> None:
        """Let every worker go on looking for work for so long before it sleeps."""
        async with self._lock:
            self.desired.poll_us = microseconds
            await self._tell_all(self.desired.polling_errand())

    async def set_ring(self, setting: RingSetting) -> None:
        """Start a ring, or change a started one.

        Raises:
            WorkerRefusedError: its worker could not; the ring is as it was.
        """
        async with self._lock:
            rings, number = self.desired.rings, setting.number
            before = rings.get(number)
            if before and setting.base is None:
                setting = replace(setting, base=before.base)
            rings[number] = setting
            try:
                value = await self._tell(self._slot_of(number), *setting.errand())
            except WorkerRefusedError:
                if before:
                    rings[number] = before
                else:
                    del rings[number]
                raise
            if value is not None:
                rings[number] = replace(setting, base=None)

    async def stop_ring(self, number: int) -> int:
        """Stop a ring and return its place, the next avail index; afterwards no worker touches it."""
        async with self._lock:
            setting = self.desired.rings.pop(number, None)
            value: int | None = None
            with contextlib.suppress(WorkerRefusedError):
                value = await self._tell(self._slot_of(number), StopRing(number))
            if value is not None:
                return value
            ring = self._around.segment.rings[number]
            ring.state = RingState.STOPPED
            if setting and setting.base is not None:
                return setting.base
            return int(ring.place) & 0xFFFF

    async def trace_bursts(self, *, on: bool) -> None:
        """Have the workers trace every burst too, or no more."""
        async with self._lock:
            self.desired.trace_bursts = on
            await self._tell_all((TraceBursts(on=on), []))

    async def capture(self, errand: Errand | None) -> None:
        """Have the workers copy frames as ``errand`` says; None: no more."""
        self.desired.capture = errand  # at once: it also says that somebody captures
        async with self._lock:
            await self._tell_all(errand or (SetCapture(), []))

    async def complete_command(self, ack: int) -> None:
        """Answer the command that the control queue waits with."""
        async with self._lock:
            try:
                await self._tell(self.owner[0], CompleteCommand(ack))
            except WorkerRefusedError as error:
                self._around.log.warning("control command not answered", problem=str(error))

    async def scale(self, workers: int) -> None:
        """Share the queue pairs among ``workers`` processes while packets flow.

        A pair that moves waits in its TAP queue and in the guest's ring between the two workers; none is lost.

        Raises:
            MpnetError: the number is out of range, or a new worker could not be started.
        """
        pairs = len(self.owner)
        if not 1 <= workers <= pairs:
            raise MpnetError(
                f"{workers} workers were asked for, expected 1 to {pairs}",
                "a worker serves one queue pair or more",
            )
        async with self._lock:
            await self._grow(workers)
            for pair, slot in enumerate(spread(pairs, workers)):
                await self._move(pair, slot)
            for slot in range(workers, self.count):
                await self._dismiss(slot)
            self.count = workers
            self._around.segment.header.workers = workers

    async def _grow(self, workers: int) -> None:
        new = range(self.count, workers)
        results = await asyncio.gather(*(self._bring_up(slot) for slot in new), return_exceptions=True)
        failures = [result for result in results if result is not None]
        if failures:
            await asyncio.gather(*(self._dismiss(slot) for slot in new))
            raise failures[0]
        self.count = max(self.count, workers)

    async def _move(self, pair: int, slot: int) -> None:
        old = self.owner[pair]
        if old == slot:
            return
        with contextlib.suppress(WorkerRefusedError):
            await self._tell(old, DetachPair(pair))
        self.owner[pair] = slot
        for message, fds in self.desired.pair_errands(pair):
            await self._insist(slot, message, fds)
        self._trace(Kind.PAIR_MOVED, pair, slot, old)
        self._around.log.info("queue pair moved", queue=pair, worker=slot, previous=old)

    async def _bring_up(self, slot: int) -> None:
        """Start a worker in ``slot`` and have it serve what it shall."""
        around = self._around
        worker = await self._fork(slot)
        self.workers[slot] = worker
        if self._stopping.is_set():
            return
        pairs = [pair for pair, owner in enumerate(self.owner) if owner == slot]
        for message, fds in list(self.desired.errands(pairs)):
            try:
                await worker.request(message, fds)
            except WorkerLostError:
                # It ends in a moment, if it has not yet: then say how.
                await worker.bury()
                raise WorkerLostError(f"{worker} ended at its start: {_how(worker)}") from None
            except WorkerRefusedError as error:
                if not self._running:
                    raise
                around.log.error("worker refused", worker=slot, request=_name(message), problem=str(error))
            self._taken(message)
        self._trace(Kind.WORKER_LAUNCHED, slot, worker.pid)
        around.log.info(
            "worker started", worker=slot, pid=worker.pid, pairs=pairs, cpu=worker.cpu, code=_lower(worker.code)
        )

    async def _fork(self, slot: int) -> Worker:
        around = self._around
        worker = Worker(around.segment, slot, around.launcher, self._listener, around.limits)
        await worker.start(around.cpus[slot % len(around.cpus)] if around.cpus else None)
        return worker

    def _improve_later(self) -> None:
        """Replace workers for which there is better code, one after the other."""
        code = self._around.launcher.code
        slots = [slot for slot, worker in self.workers.items() if worker.code < code]
        if slots and time.monotonic() >= self._improve_at:
            self._improve_at = time.monotonic() + IMPROVE_SECONDS
            self._tasks.start(self._improve(slots))

    async def _improve(self, slots: Iterable[int]) -> None:
        for slot in slots:
            async with self._lock:
                old = self.workers.get(slot)
                if old and not self._stopping.is_set():
                    await self._succeed(old)

    async def _succeed(self, old: Worker) -> None:
        """Let a new process go on in the slot of ``old``, which serves until the new one is ready to."""
        slot, log = old.slot, self._around.log
        try:
            new = await self._fork(slot)
        except MpnetError as error:
            log.warning("worker keeps its code", worker=slot, problem=str(error))
            return
        try:
            for message, fds in list(self.desired.errands(())):
                await new.request(message, fds)
        except MpnetError as error:
            log.warning("worker keeps its code", worker=slot, problem=str(error))
            await new.stop()
            return
        pairs = [pair for pair, owner in enumerate(self.owner) if owner == slot]
        for pair in pairs:
            with contextlib.suppress(WorkerRefusedError):
                await self._tell(slot, DetachPair(pair))
        self.workers[slot] = new
        for pair in pairs:
            for message, fds in self.desired.pair_errands(pair):
                await self._insist(slot, message, fds)
        await old.stop()
        self._trace(Kind.WORKER_LAUNCHED, slot, new.pid)
        log.info("worker replaced", worker=slot, pid=new.pid, previous=old.pid, code=_lower(new.code))

    def _taken(self, message: Request) -> None:
        """Note that a ring's place is in the segment from now on."""
        if isinstance(message, SetRing):
            rings = self.desired.rings
            rings[message.index] = replace(rings[message.index], base=None)

    async def _dismiss(self, slot: int) -> None:
        worker = self.workers.pop(slot, None)
        if worker is None:
            return
        step = await worker.stop()
        if step:
            self._around.segment.workers[slot].pid = 0
            self._trace(Kind.WORKER_DISMISSED, slot, worker.pid)
            self._around.log.info("worker stopped", worker=slot, pid=worker.pid, by=step)
        else:
            self._around.log.error("worker cannot be stopped", worker=slot, pid=worker.pid)

    async def _dismiss_all(self) -> None:
        await asyncio.gather(*(self._dismiss(slot) for slot in list(self.workers)))

    def _slot_of(self, number: int) -> int:
        return self.owner[self.desired.pair_of(number)]

    async def _tell(self, slot: int, message: Request, fds: Iterable[int] = ()) -> int | None:
        """Ask a worker; None when it is lost, and then gone for certain."""
        worker = self.workers.get(slot)
        if worker is None:
            return None
        try:
            return await worker.request(message, list(fds))
        except WorkerLostError:
            await worker.bury()
            return None

    async def _tell_all(self, errand: Errand) -> None:
        async def tell(slot: int) -> None:
            await self._tell(slot, *errand)

        results = await asyncio.gather(*(tell(slot) for slot in self.workers), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _insist(self, slot: int, message: Request, fds: list[int]) -> None:
        """Hand over what another worker served: a refusal leaves a ring unserved, and is only to be logged."""
        try:
            if await self._tell(slot, message, fds) is not None:
                self._taken(message)
        except WorkerRefusedError as error:
            self._around.log.error("worker refused", worker=slot, request=_name(message), problem=str(error))

    def _reported(self, worker: Worker, report: RingBroken | ControlCommand | Isolated) -> None:
        if isinstance(report, Isolated):
            self._note_isolation(report.missing)
        elif self.workers.get(worker.slot) is worker:
            self._around.reported(report)

    def _note_isolation(self, missing: dict[str, str]) -> None:
        """Say once what workers keep of their rights, which are the same for each of them."""
        if missing != self._unisolated:
            self._around.log.warning("workers are not fully isolated", **missing)
        self._unisolated = missing

    def _ended(self, worker: Worker, ending: Ending) -> None:
        slot = worker.slot
        if self.workers.get(slot) is worker:
            del self.workers[slot]
        if not self._running:
            return
        self._replace_later(slot, worker.age)
        self._around.segment.workers[slot].restarts[ending.reason] += 1
        self._trace(Kind.WORKER_ENDED, slot, worker.pid, ending.reason)
        self._around.log.warning(
            "worker ended", worker=slot, pid=worker.pid, reason=ending.reason.name.lower(), detail=ending.detail
        )

    def _replace_later(self, slot: int, lived_seconds: float) -> None:
        delay = self._backoffs.setdefault(slot, Backoff()).delay(lived_seconds)
        self._tasks.start(self._replace(slot, delay))

    async def _replace(self, slot: int, delay: float) -> None:
        await self._sleep(delay)
        async with self._lock:
            if self._stopping.is_set() or slot >= self.count or slot in self.workers:
                return
            try:
                await self._bring_up(slot)
            except LaunchError as error:
                self._around.log.error("worker not replaced", worker=slot, problem=str(error))
                self._replace_later(slot, 0.0)
            except WorkerLostError:
                return  # its end has called for the next one
            except Exception:  # whatever it is, the queue pairs must not stay unserved
                self._around.log.exception("worker not replaced", worker=slot)
                self._replace_later(slot, 0.0)

    async def _watch(self) -> None:
        """Look for workers whose heartbeat has stopped, and for better code than they run."""
        while not self._stopping.is_set():
            before = time.monotonic()
            await self._sleep(WATCH_SECONDS)
            if time.monotonic() - before > 2 * WATCH_SECONDS:
                continue  # this process was held up, so perhaps they were: look again
            # All at once: a look at a single record costs as much as all of them do.
            heartbeats = self._around.segment.workers.heartbeat_ns.tolist()
            for slot, worker in list(self.workers.items()):
                silence = worker.silence(heartbeats[slot])
                if silence > worker.patience():
                    worker.give_up(f"no heartbeat for {silence:.1f} s")
            self._improve_later()

    def _trace(self, kind: Kind, subject: int, *values: int) -> None:
        self._around.segment.traces[-1].record(kind, subject, *values)

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but not into the end."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)


def _lower(code: Code) -> str:
    return code.name.lower()


def _name(message: Request) -> str:
    return type(message).__name__


def _how(worker: Worker) -> str:
    return worker.ending.detail if worker.ending else "it does not answer"
