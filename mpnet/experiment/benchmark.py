"""The bench as an experiment: cases and systems are its factors, rounds its replicates; and its document."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import msgspec

from mpnet.bench import linux
from mpnet.bench.case import CASES, RINGS_ALONE, Case, chosen
from mpnet.bench.statistics import FAR, NOISY_STEAL, NOISY_WAIT, Result, compare, noise
from mpnet.bench.system import System
from mpnet.bench.systems.registry import OURS, PEERS
from mpnet.errors import MpnetError
from mpnet.experiment.record import Machine, Record
from mpnet.experiment.sweep import Sweep, parse

QUICK = ("tx-64-flows", "tx-tso", "rx-tso", "rtt-interrupt")
"""What tells of a device in a line: frames, bytes both ways, and latency."""
SCHEMA = 1
"""Version of ``Document``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What is to be run.

    Args:
        cases: names, of cases or groups; empty for all.
        peers: names; empty for all that are on this machine.
        rounds: measured, after one that is not.
        duration: seconds of each turn.
        quick: mpnet alone, one turn of each; of a few cases where none is named.
    """

    cases: tuple[str, ...]
    peers: tuple[str, ...]
    rounds: int
    duration: float
    quick: bool = False


class Environment(msgspec.Struct, kw_only=True):
    """The machine, the software and the state they were in.

    Attributes:
        kernel: release and version.
        cpu: model.
        cpus: processors on line.
        driver_cpu: where the driver and the host's generator ran.
        device_cpu: where devices ran.
        versions: of what was compared and of what it is made of.
        flags: options of the run.
        commit: of the source tree; empty outside one.
        load_average: over a minute, before the first turn and before the last.
        steal: share of all processors' time that the hypervisor took during turns.
        wait: share of the driver's time at full speed in which something else had its processor.
        distance_ns: that a word took from the driver's processor to the device's in turns of tx, of rx and of
            rings alone: the shortest, the median and the longest; None where there were none.
        noise: ratios that mean nothing, and why.
        skipped: systems that could not be run here, or failed in a case, and why.
    """

    kernel: str
    cpu: str
    cpus: int
    driver_cpu: int
    device_cpu: int
    versions: dict[str, str]
    flags: dict[str, Any]
    commit: str
    load_average: list[float]
    steal: float
    wait: float
    distance_ns: tuple[float, float, float] | None
    noise: list[str]
    skipped: dict[str, str]


class Document(msgspec.Struct, kw_only=True):
    """All that came of a run.

    Attributes:
        schema: version of this document's shape.
        environment: where it took place.
        results: a figure of a case on a system each, mpnet's own among them.
    """

    schema: int
    environment: Environment
    results: list[Result]


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """A choice that can be run.

    Attributes:
        choice: it.
        sweep: of its cases, each on the systems that serve it.
        systems: that are compared.
        skipped: cases and systems that cannot be run here, and why.
    """

    choice: Choice
    sweep: Sweep
    systems: list[System]
    skipped: dict[str, str]


def benchmark(choice: Choice) -> Benchmark:
    """Make a sweep of a choice.

    Raises:
        MpnetError: something that was asked for cannot be run here.
    """
    systems, skipped = ([OURS], {}) if choice.quick else _systems(choice.peers)
    cases = chosen(choice.cases or (QUICK if choice.quick else ()))
    if reason := linux.missing() if any(case.in_linux for case in cases) else "":
        without = [case.name for case in cases if case.in_linux]
        if choice.cases:
            raise MpnetError(f"{' and '.join(without)} cannot be run: {reason}")
        cases = [case for case in cases if not case.in_linux]
        skipped |= dict.fromkeys(without, reason)
    text = _text(choice, [(case, system) for case in cases for system in systems if system.serves(case)])
    return Benchmark(choice=choice, sweep=parse(text, Path("bench.toml")), systems=systems, skipped=skipped)


def _systems(wanted: tuple[str, ...]) -> tuple[list[System], dict[str, str]]:
    """Ours and the peers that can be run; why others cannot.

    Raises:
        MpnetError: one was asked for and cannot.
    """
    systems, skipped = [OURS], {}
    for peer in PEERS:
        if wanted and peer.name not in wanted:
            continue
        reason = peer.absent()
        if reason and wanted:
            raise MpnetError(f"{peer.name} cannot be run: {reason}")
        if reason:
            skipped[peer.name] = reason
        else:
            systems.append(peer)
    return systems, skipped


def _text(choice: Choice, trials: Sequence[tuple[Case, System]]) -> str:
    """The sweep as its file is."""
    head = f"""\
# What mpnet bench ran; mpnet experiment run does the same with it.

[sweep]
name = "mpnet bench"
question = "How does mpnet compare with its peers?"
replicates = {1 if choice.quick else choice.rounds}
seconds = {choice.duration}
warm-up = {choice.duration}
"""
    return head + "".join(
        f'\n[[trial]]\ncase = "{case.name}"\nsystem = "{system.name}"\n' for case, system in trials
    )


def document(made: Benchmark, records: Sequence[Record]) -> Document:
    """What the records of a run come to.

    Args:
        made: what was run.
        records: of all its trials, in order; those that failed are left out, with the reason.
    """
    good = [record for record in records if not record.error]
    results = list(_results(good))
    environment = _environment(made, good)
    environment.skipped |= {_whose(record): record.error for record in reversed(records) if record.error}
    environment.noise = [*_noise(environment, results), *_apart(good)]
    return Document(schema=SCHEMA, environment=environment, results=results)


def _whose(record: Record) -> str:
    return f"{record.factors['system']} in {record.factors['case']}"


def _results(records: Sequence[Record]) -> Iterator[Result]:
    for case in dict.fromkeys(record.factors["case"] for record in records):
        own = [record for record in records if record.factors["case"] == case]
        for figure in CASES[case].figures:
            samples: dict[str, list[float]] = {}
            for record in own:
                if figure.measure in record.figures:
                    samples.setdefault(record.factors["system"], []).append(record.figures[figure.measure])
            name = f"{case}-{figure.name}" if figure.name else case
            for system, theirs in samples.items():
                yield compare(name, system, figure.unit, samples[OURS.name], theirs, lower=figure.lower)


def _environment(made: Benchmark, records: Sequence[Record]) -> Environment:
    first: Machine | None = records[0].machine
    assert first is not None
    conditions = [record.conditions for record in records if record.conditions is not None]
    own = {name: first.versions[name] for name in ("python", "numba", "numpy")}
    return Environment(
        kernel=first.kernel,
        cpu=first.cpu,
        cpus=first.cpus,
        driver_cpu=first.driver_cpus[0],
        device_cpu=first.device_cpus[0],
        versions=own | {system.name: system.version() for system in made.systems},
        flags=asdict(made.choice),
        commit=first.commit,
        load_average=[conditions[0].load_average, conditions[-1].load_average],
        steal=fmean(each.steal for each in conditions),
        wait=fmean([each.wait for each in conditions if each.wait is not None] or [0.0]),
        distance_ns=_spread(_distances(records)),
        noise=[],
        skipped=made.skipped,
    )


def _distances(records: Sequence[Record]) -> list[float]:
    conditions = [record.conditions for record in records if record.conditions is not None]
    return [each.distance_ns for each in conditions if each.distance_ns is not None]


def _spread(values: list[float]) -> tuple[float, float, float] | None:
    return (min(values), median(values), max(values)) if values else None


def _apart(records: Sequence[Record]) -> Iterator[str]:
    """Cases between whose turns the hypervisor moved a processor."""
    named = dict.fromkeys(record.factors["case"] for record in records)
    for case in (each for each in named if CASES[each].kind in RINGS_ALONE):
        distances = _distances([record for record in records if record.factors["case"] == case])
        if distances and max(distances) > FAR * min(distances):
            yield (
                f"{case}: the driver's processor and the device's were {min(distances):.0f} to "
                f"{max(distances):.0f} ns apart (limit {FAR:g} times)"
            )


def _noise(environment: Environment, results: Sequence[Result]) -> Iterator[str]:
    yield from filter(None, (noise(result) for result in results if result.system != OURS.name))
    if environment.steal > NOISY_STEAL:
        yield f"the hypervisor took {environment.steal:.0%} of the time (limit {NOISY_STEAL:.0%})"
    if environment.wait > NOISY_WAIT:
        yield (
            f"other work had the driver's processor {environment.wait:.0%} of the time (limit {NOISY_WAIT:.0%})"
        )
    if environment.driver_cpu == environment.device_cpu:
        yield "driver and device shared the only processor there is"
