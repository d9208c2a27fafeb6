"""What a trial leaves: one record, a line of ``trials.jsonl``. Its shape has a version."""

import socket
from datetime import UTC, datetime
from typing import Any

import msgspec

from mpnet.errors import MpnetError
from mpnet.experiment.factors import plain
from mpnet.experiment.plan import Trial

SCHEMA = 1
"""Version of ``Record``; a reader refuses others."""


class Figure(msgspec.Struct, frozen=True):
    """What a figure is.

    Attributes:
        title: for axes and tables.
        unit: for axes and tables; empty for a share.
        lower: less is better.
    """

    title: str
    unit: str
    lower: bool = False


PERCENTILES = (1, 10, 25, 50, 75, 90, 95, 99, 99.9, 100)
FIGURES: dict[str, Figure] = {
    "pps": Figure("throughput", "packets/s"),
    "tx_pps": Figure("throughput from the guest", "packets/s"),
    "rx_pps": Figure("throughput to the guest", "packets/s"),
    "gbps": Figure("throughput", "Gbit/s"),
    "goodput_gbps": Figure("goodput", "Gbit/s"),
    "tx_goodput_gbps": Figure("goodput from the guest", "Gbit/s"),
    "rx_goodput_gbps": Figure("goodput to the guest", "Gbit/s"),
    "loss": Figure("loss", "", lower=True),
    "cpu_ns_per_packet": Figure("device's processor time a packet", "ns", lower=True),
    "device_cores": Figure("processors the device used", "processors", lower=True),
    "burst": Figure("packets a burst", "packets"),
    "coalesced": Figure("frames from the guest that were coalesced", ""),
    "segmented": Figure("frames to the guest that were segments", ""),
    "kicks_per_packet": Figure("kicks a packet", "", lower=True),
    "calls_per_packet": Figure("calls a packet", "", lower=True),
    "rtt_count": Figure("pings answered", "pings"),
    "one_worker_pps": Figure("throughput with one worker", "packets/s"),
    "two_workers_pps": Figure("throughput with two workers", "packets/s"),
    "one_worker_ns_per_packet": Figure("one worker's processor time a packet", "ns", lower=True),
    "two_workers_ns_per_packet": Figure("two workers' processor time a packet", "ns", lower=True),
    "idle_percent": Figure("processor time without traffic", "% of a core", lower=True),
    "worker_mib": Figure("private memory of a worker", "MiB", lower=True),
    "recovery_ms": Figure("from a worker's death to service", "ms", lower=True),
    **{f"rtt_p{share:g}_us": Figure(f"round trip, p{share:g}", "µs", lower=True) for share in PERCENTILES},
}
"""Figures that trials have, by name; not every trial has each."""


class Machine(msgspec.Struct, kw_only=True):
    """Where a trial took place.

    Attributes:
        host: name of the machine.
        kernel: release and version.
        cpu: model.
        cpus: processors on line.
        memory_bytes: of the machine.
        governor: how the first processor's frequency is chosen; empty where the kernel does not.
        driver_cpus: where the driver, and what the host sends, ran.
        device_cpus: where the device's workers ran.
        versions: of what was measured and of what it is made of.
        commit: of the source tree; empty outside one.
    """

    host: str
    kernel: str
    cpu: str
    cpus: int
    memory_bytes: int
    governor: str
    driver_cpus: list[int]
    device_cpus: list[int]
    versions: dict[str, str]
    commit: str


class Conditions(msgspec.Struct, kw_only=True):
    """What the machine was like during a trial.

    Attributes:
        load_average: over a minute, before the trial.
        steal: share of all processors' time that the hypervisor took.
        others: share of all processors' time that was neither idle nor this trial's.
        wait: share of the driver's time in which something else had its processor; None where it may well wait.
        throttled: times a processor was slowed down for heat, or this group of processes for its quota.
        mhz: mean frequency of the processors after the trial; 0 where the machine does not tell.
        distance_ns: that a word took from the driver's processor to the device's, the longer one of before and
            after the trial; None where it was not looked at, as a case does not hang on it.
    """

    load_average: float
    steal: float
    others: float
    wait: float | None
    throttled: int
    mhz: float
    distance_ns: float | None = None


class Series(msgspec.Struct, kw_only=True):
    """Counters over the time of a trial, from the start of what was measured; all count from 0.

    Attributes:
        seconds: when each was read.
        queues: for each counter, a list for each queue pair with a value for each time.
        workers: likewise for each worker.
    """

    seconds: list[float]
    queues: dict[str, list[list[float]]]
    workers: dict[str, list[list[float]]]


class Record(msgspec.Struct, kw_only=True):
    """All about one trial.

    Attributes:
        schema: ``SCHEMA``.
        trial: its id in the plan.
        order: place in the run.
        replicate: block.
        host: where it was run.
        started: UTC, ISO 8601.
        seconds: measured for; 0 where it failed.
        factors: as asked for, defaults and all.
        effective: what the device says of itself; empty for other systems.
        figures: see ``FIGURES``.
        queues: what each queue pair counted in all.
        workers: what each worker counted in all; memory and processor at the end.
        series: the same over time.
        machine: where.
        conditions: in what state; None where it failed.
        anomalies: what makes its figures doubtful, in words.
        error: why there are no figures; empty where there are.
    """

    schema: int
    trial: str
    order: int
    replicate: int
    host: str
    started: str
    seconds: float
    factors: dict[str, Any]
    effective: dict[str, Any] = msgspec.field(default_factory=dict)
    figures: dict[str, float] = msgspec.field(default_factory=dict)
    queues: list[dict[str, float]] = msgspec.field(default_factory=list)
    workers: list[dict[str, float]] = msgspec.field(default_factory=list)
    series: Series | None = None
    machine: Machine | None = None
    conditions: Conditions | None = None
    anomalies: list[str] = msgspec.field(default_factory=list)
    error: str = ""


def begin(trial: Trial) -> Record:
    """Begin the record of a trial on this host, now, without any result."""
    return Record(
        schema=SCHEMA,
        trial=trial.id,
        order=trial.order,
        replicate=trial.replicate,
        host=socket.gethostname(),
        started=datetime.now(UTC).isoformat(timespec="milliseconds"),
        seconds=0.0,
        factors=plain(trial.factors),
    )


def decode(line: bytes) -> Record:
    """Read a line.

    Raises:
        MpnetError: it is of another version, or no record.
    """
    try:
        record = msgspec.json.decode(line, type=Record)
    except msgspec.MsgspecError as error:
        raise MpnetError(f"not a record of a trial: {error}") from None
    if record.schema != SCHEMA:
        raise MpnetError(
            f"a record of schema {record.schema}, expected {SCHEMA}",
            "read it with the version of mpnet that wrote it",
        )
    return record
