"""A run of the bench: every case on every system, in turn, in a network namespace of its own."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec

from mpnet.bench import linux
from mpnet.bench.bed import Bed
from mpnet.bench.case import CASES, Case
from mpnet.bench.environment import Environment, Observer
from mpnet.bench.statistics import NOISY_STEAL, NOISY_WAIT, Result, compare, noise
from mpnet.bench.system import System, Turn
from mpnet.bench.systems.registry import OURS, PEERS
from mpnet.errors import MpnetError

SCHEMA = 1

Progress: TypeAlias = Callable[[int, int, str], None]
"""Told turns done, turns in all and what is under way."""
_Samples: TypeAlias = dict[str, dict[str, list[float]]]
"""By system, by figure; one a round."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What is to be run.

    Args:
        cases: names, of cases or groups; empty for all.
        peers: names; empty for all that are on this machine.
        rounds: measured, after one that is not.
        duration: seconds of each turn.
    """

    cases: tuple[str, ...]
    peers: tuple[str, ...]
    rounds: int
    duration: float


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


def run(choice: Choice, progress: Progress) -> Document:
    """Run the cases; the calling process is in a network namespace of its own.

    Raises:
        MpnetError: a system that was asked for is not here, or one did not work.
    """
    cases = [case for case in CASES if not choice.cases or {case.name, case.group} & {*choice.cases}]
    systems, skipped = _systems(choice.peers)
    if reason := linux.missing() if any(case.in_linux for case in cases) else "":
        cases, without = (
            [case for case in cases if not case.in_linux],
            [case.name for case in cases if case.in_linux],
        )
        if choice.cases:
            raise MpnetError(f"{' and '.join(without)} cannot be run: {reason}")
        skipped |= dict.fromkeys(without, reason)
    observer = Observer()
    results: list[Result] = []
    total = sum(_turns(case, systems, choice) for case in cases)
    done = 0

    def step(what: str) -> None:
        nonlocal done
        progress(done, total, what)
        done += 1

    # Short: a Unix socket's path has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="mpnet-bench-", dir="/tmp") as folder:  # private
        bed = Bed.make(Path(folder))
        for case in cases:
            able = [system for system in systems if system.serves(case)]
            results += _compared(case, _measured(bed, case, able, choice, _Watch(observer, step)))
        progress(total, total, "")
    environment = observer.environment(bed, systems, asdict(choice))
    environment.skipped = skipped
    environment.noise = _noise(environment, results)
    return Document(schema=SCHEMA, environment=environment, results=results)


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


def _turns(case: Case, systems: Sequence[System], choice: Choice) -> int:
    return (choice.rounds + 1) * sum(system.serves(case) for system in systems)


@dataclass(frozen=True, slots=True)
class _Watch:
    """Who is told of each turn: the observer of the machine, and whoever looks on."""

    observer: Observer
    step: Callable[[str], None]


def _measured(bed: Bed, case: Case, systems: Sequence[System], choice: Choice, watch: _Watch) -> _Samples:
    """Start every system, then A B C, A B C, …; the first round is not kept."""
    samples: _Samples = {system.name: {} for system in systems}
    with ExitStack() as stack:
        turns: dict[str, Turn] = {}
        for system in systems:
            turns[system.name] = stack.enter_context(system.open(bed, case))
        for number in range(choice.rounds + 1):
            for name, turn in turns.items():
                watch.step(f"{case.name}: {name}, " + (f"round {number}" if number else "warm-up"))
                with watch.observer.watch_thread() if case.kind in {"tx", "rx", "ring"} else nullcontext():
                    figures = turn(choice.duration)
                if number:
                    for figure, value in figures.items():
                        samples[name].setdefault(figure, []).append(value)
    return samples


def _compared(case: Case, samples: _Samples) -> Iterator[Result]:
    for figure in case.figures:
        name = f"{case.name}-{figure.name}" if figure.name else case.name
        ours = samples[OURS.name][figure.name]
        for system, theirs in samples.items():
            if figure.name in theirs:
                yield compare(name, system, figure.unit, ours, theirs[figure.name], lower=figure.lower)


def _noise(environment: Environment, results: Sequence[Result]) -> list[str]:
    found = [noise(result) for result in results if result.system != OURS.name]
    if environment.steal > NOISY_STEAL:
        found.append(f"the hypervisor took {environment.steal:.0%} of the time (limit {NOISY_STEAL:.0%})")
    if environment.wait > NOISY_WAIT:
        found.append(
            f"other work had the driver's processor {environment.wait:.0%} of the time (limit {NOISY_WAIT:.0%})"
        )
    if environment.driver_cpu == environment.device_cpu:
        found.append("driver and device shared the only processor there is")
    return [each for each in found if each]
