"""What a trial takes place on: a system, started as the factors say, with a driver and its traffic."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from mpnet.bench.bed import Bed
from mpnet.bench.case import CASES, Case, Kind
from mpnet.bench.system import Device, Endpoint
from mpnet.bench.systems.driven import Driven, attached, vhost_user_nic
from mpnet.bench.systems.mpnet import Service, serving
from mpnet.bench.systems.registry import OURS, SYSTEMS
from mpnet.config.cpus import format_cpus
from mpnet.config.device import ECHO, NULL, TAP
from mpnet.experiment.factors import Factors
from mpnet.experiment.latency import pinging
from mpnet.experiment.linux_guest import guest_work
from mpnet.experiment.load import load
from mpnet.experiment.turns import Turns
from mpnet.experiment.virtio_user import driving
from mpnet.experiment.work import Stand, Work

_COMPILE_SECONDS = 0.02
"""Of traffic before the warm-up: its first turn compiles, or loads, the driver's loops."""


def stand(bed: Bed, factors: Factors) -> AbstractContextManager[Stand]:
    """Start everything for trials of some factors; it is idle between them, and gone at the end of the block.

    Raises:
        MpnetError: something did not start.
    """
    if factors.case:
        return _of_the_bench(bed, factors)
    if factors.driver == "testpmd":
        return _testpmd(bed, factors)
    if factors.driver == "qemu":
        return _guest(bed, factors)
    return _embedded(bed, factors)


@contextmanager
def _of_the_bench(bed: Bed, factors: Factors) -> Iterator[Stand]:
    case = CASES[factors.case]
    with SYSTEMS[factors.system].open(bed, case) as turn:
        yield Stand(Turns(turn, case, bed))


@contextmanager
def _embedded(bed: Bed, factors: Factors) -> Iterator[Stand]:
    with _device(bed, factors) as device, _work(bed, device, factors) as work:
        work.run(_COMPILE_SECONDS)
        yield Stand(work, device.family, device.segment)


@contextmanager
def _device(bed: Bed, factors: Factors) -> Iterator[Device]:
    case = _case(factors)
    if factors.system == "qemu":
        with _driven(factors).device(bed, case) as device:
            yield device
        return
    with _endpoint(bed, factors) as endpoint, attached(endpoint, case, factors.ring_size) as device:
        yield device


def _work(bed: Bed, device: Device, factors: Factors) -> AbstractContextManager[Work]:
    if factors.direction == "rtt":
        return pinging(device, polled=factors.polled, gap_us=factors.gap_us)
    return load(bed, device, factors.direction, _case(factors))


@contextmanager
def _testpmd(bed: Bed, factors: Factors) -> Iterator[Stand]:
    case = _case(factors)
    with (
        _endpoint(bed, factors) as endpoint,
        driving(bed, endpoint, factors.direction, case, factors.ring_size) as work,
    ):
        yield Stand(work, endpoint.family, endpoint.segment)


@contextmanager
def _guest(bed: Bed, factors: Factors) -> Iterator[Stand]:
    if factors.system == "qemu":
        with (
            _driven(factors).nic(bed, _case(factors)) as (wire, nic),
            guest_work(bed, wire, nic, factors) as work,
        ):
            yield Stand(work)
        return
    with _endpoint(bed, factors) as endpoint:
        nic = vhost_user_nic(endpoint, factors.queue_pairs)
        with guest_work(bed, endpoint.wire, nic, factors) as work:
            yield Stand(work, endpoint.family, endpoint.segment)


def _driven(factors: Factors) -> Driven:
    system = SYSTEMS[factors.system]
    assert isinstance(system, Driven)
    return system


def _endpoint(bed: Bed, factors: Factors) -> AbstractContextManager[Endpoint]:
    if factors.system != OURS.name:
        return _driven(factors).endpoint(bed, _case(factors))
    pinned = "" if factors.cpus == "any" else f",cpus={format_cpus(bed.device_cpus)}"
    words = f"{factors.words()}{pinned}".removeprefix(",")
    service = Service(
        words=words, queue_pairs=factors.queue_pairs, mtu=factors.mtu, backend=factors.backend or TAP
    )
    return serving(bed, service)


def _case(factors: Factors) -> Case:
    """The factors as the bench's systems know them."""
    kinds: dict[str, Kind] = {"tx": "tx", "rx": "rx", "both": "tx", "rtt": "rtt"}
    alone = factors.backend in {NULL, ECHO}
    return Case(
        name="experiment",
        kind="ring" if alone else kinds[factors.direction],
        figures=(),
        about="a trial of an experiment",
        features=factors.feature_bits(),
        frame_bytes=factors.frame_bytes,
        flows=factors.all_flows(),
        segments=factors.segments,
        tcp=factors.protocol == "tcp",
        queue_pairs=factors.queue_pairs,
        polled=factors.polled,
        echo=factors.backend == ECHO,
    )
