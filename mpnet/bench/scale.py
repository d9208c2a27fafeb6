"""The same work on one queue pair and on two, each with a worker: how much is gained, what a packet costs."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from mpnet.bench.bed import Bed
from mpnet.bench.case import Case
from mpnet.bench.system import Device, Turn
from mpnet.bench.work import NEVER_SLEEP, warm
from mpnet.guest.traffic import Plan, Report, Traffic


def processor_ns(processes: Sequence[int]) -> int:
    """Nanoseconds that all threads of some processes have run so far."""
    tasks = [task for pid in processes for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


@contextmanager
def scale(bed: Bed, device: Device, case: Case) -> Iterator[Turn]:
    """What a turn on this device is; its two queue pairs are driven by a thread each."""
    plan = Plan(receive=False, check=False, spins=NEVER_SLEEP)
    stream = case.stream(device.wire)
    traffics = [Traffic(pair, stream, plan) for pair in device.pairs]
    with ThreadPoolExecutor(1) as second:
        second.submit(os.sched_setaffinity, 0, {bed.driver_cpus[1]}).result()

        def run(count: int, seconds: float) -> list[Report]:
            other = [second.submit(traffic.run, seconds) for traffic in traffics[1:count]]
            return [traffics[0].run(seconds), *(each.result() for each in other)]

        def measured(count: int, seconds: float) -> tuple[float, float]:
            """Packets a second, and nanoseconds of the workers for each."""
            run(count, warm(seconds))
            workers = device.family()[:count]
            before = processor_ns(workers)
            reports = run(count, seconds)
            spent = processor_ns(workers) - before
            rates = [report.sent["returned"] / report.seconds for report in reports]
            return sum(rates), spent / max(1, sum(report.sent["returned"] for report in reports))

        def turn(seconds: float) -> dict[str, float]:
            one, two = measured(1, seconds / 2), measured(2, seconds / 2)
            figures = {"one-worker": one[0], "two-workers": two[0]}
            return figures | {"one-worker-cost": one[1], "two-workers-cost": two[1]}

        yield turn
