"""A case's work on a device: the embedded driver at full speed, and what of it arrived."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from mpnet.bench.bed import Wire
from mpnet.bench.case import Case
from mpnet.bench.generator import generator, send
from mpnet.bench.pool import drain, make_pool
from mpnet.bench.system import Device, Turn
from mpnet.errors import MpnetError
from mpnet.guest.traffic import Plan, Traffic
from mpnet.guest.virtqueue import BROKEN

NEVER_SLEEP = 1 << 60
_BROKEN = "the device returned a chain it does not hold, or says it wrote past one"
_WARM = 0.2
"""Of a turn's time, run before it, unmeasured: caches and frequency settle."""
_WARM_SECONDS = 0.1
"""At least: a system that was stopped has to come to its processor again."""


def warm(seconds: float) -> float:
    """How long to run before a turn of ``seconds``."""
    return max(seconds * _WARM, _WARM_SECONDS)


@contextmanager
def work(device: Device, case: Case) -> Iterator[Turn]:
    """What a turn on this device is, for a case of kind tx or rx."""
    with (_transmit if case.kind == "tx" else _receive)(device, case) as turn:
        yield turn


@contextmanager
def _transmit(device: Device, case: Case) -> Iterator[Turn]:
    plan = Plan(receive=False, check=False, spins=NEVER_SLEEP)
    traffic = Traffic(device.pairs[0], case.stream(device.wire), plan)

    def turn(seconds: float) -> dict[str, float]:
        traffic.run(warm(seconds))
        before = device.wire.received()
        report = traffic.run(seconds)
        arrived = device.wire.received() - before
        return {"": rate(case, device.wire, report.sent["returned"], arrived, report.seconds)}

    yield turn


def rate(case: Case, wire: Wire, frames: int, arrived: int, seconds: float) -> float:
    """What was sent in the case's unit, less what did not arrive.

    Args:
        case: says what the frames are.
        wire: their TAP.
        frames: done with by the device.
        arrived: bytes that the host took from the TAP meanwhile; headers may be fewer than sent, where frames
            were coalesced.
        seconds: it took.
    """
    stream = case.stream(wire)
    least = stream.segments * stream.segment_bytes if case.coalesced > 1 else len(stream.frame())
    share = min(1.0, arrived / (frames * least)) if frames else 0.0
    return share * frames * amount(case, wire) / seconds


def amount(case: Case, wire: Wire) -> float:
    """One frame in the case's unit."""
    stream = case.stream(wire)
    return len(stream.frame()) * 8e-9 if case.figures[0].unit == "Gbps" else stream.segments


@contextmanager
def _receive(device: Device, case: Case) -> Iterator[Turn]:
    stream = case.stream(device.wire)
    pool, queue = make_pool(device.pairs[0], stream.payload_at), device.pairs[0].rx.virtqueue
    state = pool.state[0]
    each = amount(case, device.wire) / (stream.segments * stream.segment_bytes)

    def run(seconds: float) -> float:
        """Send without the device at work, then see how fast it catches up, by turns."""
        end = time.monotonic() + seconds
        backlog = case.backlog * int(sender.state[0].payload)
        came, took = 0, 0
        while time.monotonic() < end:
            device.sleep()
            send(sender, case.backlog)
            device.wake()
            # As many also where fewer were taken: a queue that late turns have left full must be emptied.
            caught_up = drain(queue, pool, int(state.payload) + backlog)
            if caught_up == BROKEN:
                raise MpnetError(_BROKEN)
            came, took = came + caught_up, took + int(state.nanoseconds)
        return came * each / (took / 1e9) if took else 0.0

    def turn(seconds: float) -> dict[str, float]:
        run(warm(seconds))
        return {"": run(seconds)}

    with generator(device.wire, case) as sender:
        yield turn
