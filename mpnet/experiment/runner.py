"""Runs one trial on this host; the process is in a network namespace of its own."""

import os
import tempfile
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import psutil

from mpnet.bench.bed import Bed
from mpnet.bench.case import Case, Figure
from mpnet.bench.scale import processor_ns
from mpnet.bench.system import Device, System
from mpnet.bench.systems.driven import Driven
from mpnet.bench.systems.mpnet import Service, control_socket, served
from mpnet.bench.systems.registry import OURS, PEERS
from mpnet.config.cpus import format_cpus
from mpnet.config.device import TAP
from mpnet.errors import MpnetError
from mpnet.experiment.conditions import Watch, anomalies, machine
from mpnet.experiment.factors import Factors
from mpnet.experiment.latency import pinging
from mpnet.experiment.load import load
from mpnet.experiment.plan import Trial
from mpnet.experiment.record import Record, begin
from mpnet.experiment.sampler import Sampler, totals
from mpnet.experiment.work import Work
from mpnet.guest.driver import Setup
from mpnet.rpc.management import Client
from mpnet.segment.segment import Segment

_COMPILE_SECONDS = 0.02
"""Of traffic before the warm-up: its first turn compiles, or loads, the driver's loops."""
_BUFFER_BYTES = 2048
_LEAST_MEMORY = 64 << 20


def run(trial: Trial) -> Record:
    """Run a trial; one that fails has its reason in ``error``."""
    record = begin(trial)
    processors = os.sched_getaffinity(0)
    try:
        # Short: a Unix socket's path has 107 bytes at most.
        with tempfile.TemporaryDirectory(prefix="mpnet-trial-", dir="/tmp") as folder:  # private
            _measure(trial, record, _bed(Path(folder), trial.factors))
    except MpnetError as error:
        record.error = str(error)
    finally:
        os.sched_setaffinity(0, processors)
    return record


def _bed(folder: Path, factors: Factors) -> Bed:
    """Half of the processors for the driver, half for the device, unless those of the device were given."""
    allowed = sorted(os.sched_getaffinity(0))
    half = max(1, len(allowed) // 2)
    driver, device = allowed[:half], allowed[-half:]
    if wanted := factors.pinned():
        absent = set(wanted) - set(allowed)
        if absent:
            raise MpnetError(
                f"cpus is {factors.cpus}, but processor {min(absent)} is not this machine's or not ours to use",
                f"name some of {allowed[0]} to {allowed[-1]}",
            )
        device = list(wanted)
        driver = [cpu for cpu in allowed if cpu not in wanted] or allowed[:1]
    bed = Bed(folder, tuple(driver), tuple(device))
    bed.lay()
    return bed


def _measure(trial: Trial, record: Record, bed: Bed) -> None:
    factors = trial.factors
    system = next(system for system in (OURS, *PEERS) if system.name == factors.system)
    if reason := system.absent():
        raise MpnetError(f"{system.name} cannot be run here: {reason}")
    record.machine = machine(bed, system)
    case = _case(factors)
    with ExitStack() as stack:
        device = stack.enter_context(_device(bed, system, factors, case))
        work = stack.enter_context(_work(bed, device, factors, case))
        record.effective = _effective(bed, device)
        work.run(_COMPILE_SECONDS)
        if trial.warm_up:
            work.run(trial.warm_up)
        _look_on(work, device, trial.seconds, record)


def _case(factors: Factors) -> Case:
    """The factors as the bench's systems know them."""
    return Case(
        name="experiment",
        kind=factors.direction if factors.direction in {"rx", "rtt"} else "tx",
        figures=(Figure(unit="pps"),),
        about="a trial of an experiment",
        features=factors.feature_bits(),
        frame_bytes=factors.frame_bytes,
        flows=factors.flows,
        segments=factors.segments,
        tcp=factors.protocol == "tcp",
        queue_pairs=factors.queue_pairs,
        polled=factors.polled,
    )


def _device(bed: Bed, system: System, factors: Factors, case: Case) -> AbstractContextManager[Device]:
    if system is not OURS:
        assert isinstance(system, Driven)
        return system.device(bed, case)
    setup = Setup(
        queue_pairs=factors.queue_pairs,
        ring_size=factors.ring_size,
        features=case.features,
        memory=(_memory_bytes(factors),),
    )
    pinned = "" if factors.cpus == "any" else f",cpus={format_cpus(bed.device_cpus)}"
    words = f"{factors.words()}{pinned}".removeprefix(",")
    return served(bed, Service(words=words, setup=setup, mtu=factors.mtu, backend=factors.backend or TAP))


def _memory_bytes(factors: Factors) -> int:
    """Guest memory with room for every buffer of every ring."""
    frame = factors.frame_bytes * factors.segments + 4096
    needed = factors.queue_pairs * factors.ring_size * (frame + _BUFFER_BYTES)
    return max(_LEAST_MEMORY, -(-2 * needed // _LEAST_MEMORY) * _LEAST_MEMORY)


def _work(bed: Bed, device: Device, factors: Factors, case: Case) -> AbstractContextManager[Work]:
    if factors.direction == "rtt":
        return pinging(device, polled=factors.polled, gap_us=factors.gap_us)
    return load(bed, device, factors.direction, case)


def _effective(bed: Bed, device: Device) -> dict[str, Any]:
    """What mpnet's device says of itself while it is driven."""
    if not device.segment:
        return {}
    with Client(control_socket(bed)) as client:
        report: dict[str, Any] = client.call("device.show", device=device.segment)
    kept = ("config", "features", "mtu", "queue_pairs", "enabled_pairs")
    effective = {name: report[name] for name in kept if name in report}
    effective["workers"] = [{name: each[name] for name in ("slot", "cpu", "pairs")} for each in report["workers"]]
    return effective


def _look_on(work: Work, device: Device, seconds: float, record: Record) -> None:
    """Do the work that counts, and write down what came of it."""
    segment = Segment.attach(device.segment) if device.segment else None
    family, driver = device.family(), psutil.Process()
    before, driver_before = processor_ns(family), sum(driver.cpu_times()[:2])
    watch = Watch()
    with Sampler(segment, seconds) if segment else nullcontext() as sampler:
        done = work.run(seconds)
    spent = (processor_ns(family) - before) / 1e9
    own = spent + sum(driver.cpu_times()[:2]) - driver_before
    record.seconds = done.seconds
    record.conditions = watch.conditions(own, done.wait)
    record.figures = done.figures | {"device_cores": spent / done.seconds}
    if done.packets:
        record.figures["cpu_ns_per_packet"] = spent * 1e9 / done.packets
    restarts = faults = 0
    if sampler is not None and segment is not None:
        record.series = sampler.series()
        record.queues, record.workers = totals(record.series)
        record.figures |= _per_packet(record.queues, record.workers)
        restarts = int(sum(worker["restarts"] for worker in record.workers))
        faults = int(segment.rings.faults.sum())
    record.anomalies = anomalies(record.conditions, restarts, faults)


def _per_packet(queues: list[dict[str, float]], workers: list[dict[str, float]]) -> dict[str, float]:
    """Bursts and notifications, as shares."""
    packets = sum(queue["rx_packets"] + queue["tx_packets"] for queue in queues)
    bursts = sum(worker["bursts"] for worker in workers)
    if not packets or not bursts:
        return {}
    return {
        "burst": sum(worker["packets"] for worker in workers) / bursts,
        "kicks_per_packet": sum(queue["rx_kicks"] + queue["tx_kicks"] for queue in queues) / packets,
        "calls_per_packet": sum(queue["rx_calls"] + queue["tx_calls"] for queue in queues) / packets,
    }
