"""A case's work on a device: the embedded driver at full speed, and what of it arrived."""

from collections.abc import Iterator
from contextlib import contextmanager

from mpnet.bench.bed import Wire
from mpnet.bench.case import Case
from mpnet.bench.generator import generator
from mpnet.bench.pool import exchange, make_pool
from mpnet.bench.system import Device, Turn
from mpnet.errors import MpnetError
from mpnet.guest.traffic import Plan, Traffic

NEVER_SLEEP = 1 << 60
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
    pair, pool = device.pairs[0], make_pool(device.pairs[0])
    state = pool.state[0]
    each = amount(case, device.wire) / len(case.stream(device.wire).frame())

    def run(seconds: float) -> int:
        before = int(state.bytes)
        if not exchange(pair.rx.virtqueue, pool, sender, int(seconds * 1e9)):
            raise MpnetError("the device returned a chain it does not hold, or says it wrote past one")
        return int(state.bytes) - before

    def turn(seconds: float) -> dict[str, float]:
        run(warm(seconds))
        received = run(seconds)
        return {"": received * each / (int(state.nanoseconds) / 1e9)}

    with generator(device.wire, case) as sender:
        yield turn
