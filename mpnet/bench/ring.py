"""Rings alone: a driver at full speed on a device with no TAP behind it, and what a frame costs the device."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from mpnet.bench.bed import Bed
from mpnet.bench.case import RING_SIZE, Case
from mpnet.bench.scale import processor_ns
from mpnet.bench.system import Endpoint, Turn
from mpnet.bench.testpmd import Forwarder, Telemetry, testpmd, virtio_user
from mpnet.bench.work import NEVER_SLEEP, warm
from mpnet.guest.driver import Driver, Setup
from mpnet.guest.traffic import Plan, Report, Traffic
from mpnet.virtio.features import Feature, has

_DRIVER_BURST = 128
"""Frames that testpmd handles at a time; what circulates in an echo is one burst of them."""


def ring(bed: Bed, endpoint: Endpoint, case: Case) -> AbstractContextManager[Turn]:
    """What a turn on this device is, for a case of kind ring or virtio-user."""
    return _embedded(endpoint, case) if case.kind == "ring" else _virtio_user(bed, endpoint, case)


def _figures(endpoint: Endpoint, seconds: float, run: Callable[[float], tuple[int, float]]) -> dict[str, float]:
    """Run for so long; frames a second, and nanoseconds of the device's processor for each."""
    run(warm(seconds))
    movers = endpoint.family()[:1]
    before = processor_ns(movers)
    frames, took = run(seconds)
    spent = processor_ns(movers) - before
    return {"": frames / took, "cost": spent / max(1, frames)}


@contextmanager
def _embedded(endpoint: Endpoint, case: Case) -> Iterator[Turn]:
    setup = Setup(ring_size=RING_SIZE, features=case.features)
    plan = Plan(receive=case.echo, check=False, spins=NEVER_SLEEP)
    with Driver.connect(endpoint.path, setup) as driver:
        traffic = Traffic(driver.pairs[0], case.stream(endpoint.wire), plan)

        def run(seconds: float) -> tuple[int, float]:
            report: Report = traffic.run(seconds)
            return report.received["frames"] if case.echo else report.sent["returned"], report.seconds

        yield lambda seconds: _figures(endpoint, seconds, run)


@contextmanager
def _virtio_user(bed: Bed, endpoint: Endpoint, case: Case) -> Iterator[Turn]:
    """DPDK's driver, which is neither system's own: it sends without end, or sends on what comes back."""
    forwarder = _driver(bed, endpoint, case)
    with testpmd(bed, forwarder) as program, Telemetry(bed, forwarder, program) as telemetry:

        def moved() -> int:
            received, sent = telemetry.packets()
            return received if case.echo else sent

        def run(seconds: float) -> tuple[int, float]:
            before, began = moved(), time.monotonic()
            time.sleep(seconds)
            return moved() - before, time.monotonic() - began

        def turn(seconds: float) -> dict[str, float]:
            program.wake()
            try:
                return _figures(endpoint, seconds, run)
            finally:
                program.sleep()

        telemetry.wait()
        program.sleep()
        yield turn


def _driver(bed: Bed, endpoint: Endpoint, case: Case) -> Forwarder:
    packed = has(case.features, Feature.RING_PACKED)
    return Forwarder(
        name=f"{endpoint.path.stem}-driver",  # each device has a driver of its own
        ports=[virtio_user(endpoint.path, queue_pairs=1, ring_size=RING_SIZE, packed=packed)],
        cpus=[bed.driver_cpu],
        mode="io" if case.echo else "txonly",
        options=[
            f"--txpkts={case.frame_bytes}",
            *(["--tx-first", f"--burst={_DRIVER_BURST}"] if case.echo else []),
        ],
    )
