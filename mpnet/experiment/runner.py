"""Runs trials on this host; the process is in a network namespace of its own."""

import os
import tempfile
from collections.abc import Generator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpnet.bench import linux
from mpnet.bench.bed import Bed
from mpnet.bench.scale import processor_ns
from mpnet.bench.systems.mpnet import control_socket
from mpnet.bench.systems.registry import SYSTEMS
from mpnet.errors import MpnetError
from mpnet.experiment.conditions import Watch, anomalies, machine
from mpnet.experiment.factors import Factors
from mpnet.experiment.plan import Trial
from mpnet.experiment.record import Machine, Record, begin
from mpnet.experiment.sampler import Sampler, totals
from mpnet.experiment.stand import stand
from mpnet.experiment.strayed import strayed
from mpnet.experiment.work import Stand
from mpnet.rpc.management import Client
from mpnet.segment.segment import Segment

_DRIVERS = {"testpmd": {"testpmd": SYSTEMS["dpdk"]}, "qemu": {"qemu": SYSTEMS["qemu"]}}
"""What drivers are made of, where that is also a system of the bench."""


@dataclass(frozen=True, slots=True)
class _Ready:
    """A stand, and what is to be said of it in each of its records."""

    stand: Stand
    machine: Machine
    effective: dict[str, Any]


def run(trials: Sequence[Trial]) -> Generator[Record, None, None]:
    """Run the trials of a session; those that fail have the reason in ``error``.

    All that they take place on is started and warmed up before the first of them, and gone after the last.
    """
    processors = os.sched_getaffinity(0)
    left = list(trials)
    try:
        with ExitStack() as stack:
            # Short: a Unix socket's path has 107 bytes at most.
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="mpnet-trial-", dir="/tmp")
            )  # private
            bed = _bed(Path(folder), trials[0].factors)
            systems = dict.fromkeys(trial.factors for trial in trials)
            ready = {factors: _start_warm(stack, bed, factors, trials[0].warm_up) for factors in systems}
            while left:
                record = begin(left[0])
                record.error = _look_on(ready[left[0].factors], left[0], record)
                del left[0]
                yield record
    except MpnetError as error:
        for trial in left:
            record = begin(trial)
            record.error = str(error)
            yield record
    finally:
        os.sched_setaffinity(0, processors)


def _bed(folder: Path, factors: Factors) -> Bed:
    """Half of the processors for the driver, half for the device, unless those of the device were given."""
    if factors.case:
        return Bed.make(folder)
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
    if factors.driver == "qemu":
        driver = allowed  # a guest has processors of its own to spread, and the host's end of its streams
    bed = Bed(folder, tuple(driver), tuple(device))
    bed.lay()
    return bed


def _start_warm(stack: ExitStack, bed: Bed, factors: Factors, seconds: float) -> _Ready | str:
    """Start and warm up one of a session's systems; why not, where it fails: the others have their turns."""
    try:
        ready = _start(stack, bed, factors)
        if seconds:
            ready.stand.work.run(seconds)
    except MpnetError as error:
        return str(error)
    return ready


def _start(stack: ExitStack, bed: Bed, factors: Factors) -> _Ready:
    parts = {factors.system: SYSTEMS[factors.system]} | _DRIVERS.get(factors.driver, {})
    for name, part in parts.items():
        if reason := part.absent():
            raise MpnetError(f"{name} cannot be run here: {reason}")
    if factors.driver == "qemu" and (reason := linux.missing()):
        raise MpnetError(f"driver qemu cannot be run here: {reason}")
    started = stack.enter_context(stand(bed, factors))
    versions = {name: part.version() for name, part in parts.items()}
    return _Ready(started, machine(bed, versions), _effective(bed, started))


def _effective(bed: Bed, started: Stand) -> dict[str, Any]:
    """What mpnet's device says of itself while it is driven."""
    if not started.segment:
        return {}
    with Client(control_socket(bed)) as client:
        report: dict[str, Any] = client.call("device.show", device=started.segment)
    kept = ("config", "features", "mtu", "queue_pairs", "enabled_pairs")
    effective = {name: report[name] for name in kept if name in report}
    effective["workers"] = [{name: each[name] for name in ("slot", "cpu", "pairs")} for each in report["workers"]]
    return effective


def _look_on(ready: _Ready | str, trial: Trial, record: Record) -> str:
    """Do the work that counts, and write down what came of it; why there is nothing, where it failed."""
    if isinstance(ready, str):
        return ready
    try:
        _measure(ready, trial, record)
    except MpnetError as error:
        return str(error)
    return ""


def _measure(ready: _Ready, trial: Trial, record: Record) -> None:
    record.machine, record.effective, started = ready.machine, ready.effective, ready.stand
    segment = Segment.attach(started.segment) if started.segment else None
    watch = Watch()
    before = _spent_ns(started)
    with Sampler(segment, trial.seconds) if segment else nullcontext() as sampler:
        done = started.work.run(trial.seconds)
    spent = _spent_ns(started) - before
    record.seconds = done.seconds
    record.conditions = watch.conditions(done)
    record.figures = dict(done.figures)
    if started.family is not None:
        record.figures["device_cores"] = spent / 1e9 / done.seconds
        if done.packets:
            record.figures["cpu_ns_per_packet"] = spent / done.packets
    restarts = faults = 0
    if sampler is not None and segment is not None:
        record.series = sampler.series()
        record.queues, record.workers = totals(record.series)
        record.figures |= _per_packet(record.queues, record.workers)
        restarts = int(sum(worker["restarts"] for worker in record.workers))
        faults = int(segment.rings.faults.sum())
    record.anomalies = [*anomalies(record.conditions, restarts, faults), *strayed(record, trial.factors)]


def _spent_ns(started: Stand) -> int:
    """Processor time that the device's processes have taken so far."""
    return processor_ns(started.family()) if started.family is not None else 0


def _per_packet(queues: list[dict[str, float]], workers: list[dict[str, float]]) -> dict[str, float]:
    """Bursts and notifications, and what was coalesced and segmented, as shares."""
    received, sent = (sum(queue[f"{way}_packets"] for queue in queues) for way in ("rx", "tx"))
    packets = received + sent
    bursts = sum(worker["bursts"] for worker in workers)
    if not packets or not bursts:
        return {}
    coalesced, segmented = (sum(queue[name] for queue in queues) for name in ("tx_coalesced", "rx_segmented"))
    shares = {"coalesced": coalesced / sent} if sent else {}
    shares |= {"segmented": segmented / received} if received else {}
    return shares | {
        "burst": sum(worker["packets"] for worker in workers) / bursts,
        "kicks_per_packet": sum(queue["rx_kicks"] + queue["tx_kicks"] for queue in queues) / packets,
        "calls_per_packet": sum(queue["rx_calls"] + queue["tx_calls"] for queue in queues) / packets,
    }
