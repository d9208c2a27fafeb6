"""Traffic on all queue pairs of a device at once: what the guest sends, and what the host sends it."""

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from mpnet.bench.bed import Bed
from mpnet.bench.case import Case
from mpnet.bench.environment import schedule
from mpnet.bench.generator import STATE as GENERATOR
from mpnet.bench.generator import Generator, generate, generator
from mpnet.bench.pool import STATE as POOL
from mpnet.bench.pool import Pool, make_pool, refill
from mpnet.bench.system import Device
from mpnet.errors import MpnetError
from mpnet.experiment.moved import Moved, arrived, figures, offered
from mpnet.experiment.work import Done
from mpnet.guest.driver import QueuePair
from mpnet.guest.source import UNLIMITED, Source, make_source, send_burst
from mpnet.guest.stream import Stream
from mpnet.guest.virtqueue import BROKEN, Virtqueue
from mpnet.jit.compile import compiled

_SEND, _RECEIVE, _GENERATE = 1, 2, 4
"""What a pair is driven for: its tx ring, its rx ring; and the host's frames for all pairs with it."""
_SPELL_BURSTS = 256
_BURST = 32
_ALONE_PATIENCE = 1 << 14
"""Turns without progress before the driver's thread looks at the clock, where no other pair waits for it."""


class _Work(NamedTuple):
    """One pair as the compiled loop sees it."""

    tx: Virtqueue
    rx: Virtqueue
    source: Source
    pool: Pool
    sender: Generator
    pools: Any


class Load:
    """The traffic of one trial; made by ``load``.

    Args:
        bed: says which processors drive.
        device: is driven.
        works: its pairs that have something to do, and what.
        pools: records of ``POOL`` of all pairs, shape ``(n,)``.
        sender: of the host; None where it sends nothing.
        case: what is sent.
    """

    def __init__(
        self,
        bed: Bed,
        device: Device,
        works: Sequence[tuple[_Work, int]],
        pools: Any,
        sender: Generator | None,
        case: Case,
    ) -> None:
        self._device = device
        self._case = case
        self._works = works
        self._pools = pools
        self._sender = sender
        self._receives = any(way & _RECEIVE for _, way in works)
        threads = max(1, min(len(bed.driver_cpus), len(works)))
        self._shares = [works[first::threads] for first in range(threads)]
        self._cpus = bed.driver_cpus

    def run(self, seconds: float) -> Done:
        """Drive at full speed for so long.

        Raises:
            MpnetError: the device broke a queue.
        """
        before = self._moved()
        started = time.monotonic_ns()
        end = started + int(seconds * 1e9)
        with ThreadPoolExecutor(len(self._shares)) as threads:
            runs = [
                threads.submit(_drive, share, end, cpu)
                for share, cpu in zip(self._shares, self._cpus, strict=False)
            ]
            ran, waited = (sum(times) for times in zip(*(each.result() for each in runs), strict=True))
        took = (time.monotonic_ns() - started) / 1e9
        found = figures(self._moved().since(before), took, self._case, self._device.wire, receives=self._receives)
        return Done(took, found["pps"] * took, waited / max(1, ran + waited), found)

    def _moved(self) -> Moved:
        return Moved(
            sum(int(work.source.state[0].returned) for work, _ in self._works),
            arrived(self._device.wire),
            offered(self._sender),
            int(self._pools.payload.sum()),
        )


def _drive(share: Sequence[tuple[_Work, int]], end: int, cpu: int) -> tuple[int, int]:
    """Drive some pairs in turn, each as long as it moves something; nanoseconds it ran, and waited to run."""
    os.sched_setaffinity(0, {cpu})
    ran, waited = schedule()
    patience = _ALONE_PATIENCE if len(share) == 1 else 0
    while time.monotonic_ns() < end:
        moved = 0
        for work, way in share:
            count = spell(work, way, patience)
            if count == BROKEN:
                raise MpnetError("the device returned a chain it does not hold, or says it wrote past one")
            moved += count
        if moved == 0:
            os.sched_yield()
    now_ran, now_waited = schedule()
    return now_ran - ran, now_waited - waited


@compiled
def spell(work: _Work, way: int, patience: int) -> int:
    """Drive one pair for some bursts, or until it is idle for ``patience`` turns; frames, or BROKEN."""
    total = 0
    idle = 0
    for _ in range(_SPELL_BURSTS):
        moved = 0
        if way & _RECEIVE:
            moved = refill(work.rx, work.pool)
        if way & _SEND and moved >= 0:
            sent = send_burst(work.tx, work.source)
            moved = moved + sent if sent >= 0 else sent
        if moved < 0:
            return BROKEN
        if way & _GENERATE:
            received = 0
            for i in range(len(work.pools)):
                received += work.pools[i].payload
            moved += generate(work.sender, received)
        total += moved
        idle = 0 if moved else idle + 1
        if idle > patience:
            break
    return total


@contextmanager
def load(bed: Bed, device: Device, way: str, case: Case) -> Iterator[Load]:
    """The traffic of a trial.

    Args:
        bed: says which processors drive.
        device: all its pairs are driven that have a flow.
        way: "tx", "rx" or "both".
        case: says what is sent; its flows are dealt out to the pairs that send.
    """
    sends, receives = way in {"tx", "both"}, way in {"rx", "both"}
    pools = np.zeros(len(device.pairs), POOL).view(np.recarray)
    with ExitStack() as stack:
        sends_back = receives and device.wire.name
        sender = stack.enter_context(generator(device.wire, replace(case, kind="rx"))) if sends_back else None
        outgoing = replace(case, kind="tx").stream(device.wire)
        works = []
        for number, pair in enumerate(device.pairs):
            stream = _share(outgoing, number, len(device.pairs))
            pair_way = (_SEND if sends and stream else 0) | (_RECEIVE if receives else 0)
            pair_way |= _GENERATE if sender is not None and number % len(bed.driver_cpus) == 0 else 0
            if not pair_way:
                continue
            source = _source(pair, stream if sends and stream else Stream())
            if receives:
                pools[number] = make_pool(pair, outgoing.payload_at).state[0]
            pool = Pool(pools[number : number + 1])
            work = _Work(pair.tx.virtqueue, pair.rx.virtqueue, source, pool, sender or _no_generator(), pools)
            works.append((work, pair_way))
        yield Load(bed, device, works, pools, sender, case)


def _share(stream: Stream, number: int, pairs: int) -> Stream | None:
    """The flows of one pair; None where there are not enough for all."""
    counts = [stream.flows // pairs + (pair < stream.flows % pairs) for pair in range(number + 1)]
    if not counts[number]:
        return None
    return replace(stream, flows=counts[number], first_port=stream.first_port + sum(counts[:number]))


def _source(pair: QueuePair, stream: Stream) -> Source:
    ring_size = pair.tx.ring.size
    source = make_source(
        pair.tx.memory, ring_size, stream, pair.header_bytes, burst=min(_BURST, ring_size), flow_run=1
    )
    source.state[0].limit = UNLIMITED
    return source


def _no_generator() -> Generator:
    """Takes the place of one, for the compiled loop's types; never called."""
    nothing = np.zeros(1, np.uint8)
    return Generator(np.zeros(1, GENERATOR).view(np.recarray), (nothing, nothing.copy(), nothing.copy()))
