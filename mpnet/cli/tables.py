"""What people see of devices and workers: tables on standard output."""

import time
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mpnet.rpc.state import DeviceReport, RingReport, WorkerReport

_COLOURS = {"running": "green", "connected": "yellow", "waiting": "yellow", "broken": "red"}


def print_devices(reports: Iterable[DeviceReport]) -> None:
    """Print a line per device."""
    table = _table(
        "device", "state", "queue pairs", "workers", "tap", "socket", numbers=("queue pairs", "workers")
    )
    for report in reports:
        pairs = f"{report.enabled_pairs}/{report.queue_pairs}"
        table.add_row(
            report.id,
            _coloured(report.state),
            pairs,
            str(len(report.workers)),
            escape(report.tap),
            escape(report.socket),
        )
    _console().print(table)


def print_workers(reports: Iterable[WorkerReport]) -> None:
    """Print a line per worker."""
    table = _table(
        "device", "worker", "pid", "cpu", "queue pairs", "up", "restarts", numbers=("worker", "pid", "cpu")
    )
    for report in reports:
        table.add_row(
            report.device,
            str(report.slot),
            str(report.pid),
            "any" if report.cpu is None else str(report.cpu),
            " ".join(map(str, report.pairs)) or "none",
            _duration(time.time() - report.start_time) if report.pid else "",
            _reasons(report.restarts) or "0",
        )
    _console().print(table)


def print_device(report: DeviceReport) -> None:
    """Print all about a device."""
    console = _console()
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(report):
        facts.add_row(f"[bold]{name}[/]", value)
    console.print(facts)
    console.print(_rings(report))
    if report.workers:
        print_workers(report.workers)


def _facts(report: DeviceReport) -> Sequence[tuple[str, str]]:
    missing = [name for name in report.offered_features if name not in report.features]
    first = report.start_to_first_packet_seconds
    return (
        ("device", report.id),
        ("state", _coloured(report.state)),
        ("tap", escape(report.tap)),
        ("socket", escape(report.socket)),
        ("mac", report.mac),
        ("mtu", str(report.mtu)),
        ("queue pairs", f"{report.enabled_pairs} enabled of {report.queue_pairs}"),
        ("front-ends seen", str(report.connections)),
        ("features", " ".join(report.features) or "none negotiated"),
        ("offered only", " ".join(missing) or "none"),
        ("start to first packet", "no packet yet" if first is None else f"{first:.3f} s"),
    )


def _rings(report: DeviceReport) -> Table:
    counters = ("size", "ready", "packets", "bytes", "kicks", "calls", "quiet")
    table = _table("queue", "ring", "worker", "state", *counters, "drops", numbers=("queue", "worker", *counters))
    for queue in report.queues:
        worker = "none" if queue.worker < 0 else str(queue.worker)
        for name, ring in (("rx", queue.rx), ("tx", queue.tx)):
            table.add_row(str(queue.pair), name, worker, *_ring_cells(ring))
    return table


def _ring_cells(ring: RingReport) -> Iterable[str]:
    state = _coloured(ring.state)
    yield f"{state} ({ring.fault})" if ring.state == "broken" else state
    for number in (ring.size, ring.available_entries, ring.packets, ring.bytes, ring.kicks, ring.calls):
        yield f"{number:,}"
    yield f"{ring.calls_suppressed:,}"
    yield _reasons(ring.drops) or "0"


def _reasons(counts: dict[str, int]) -> str:
    return " ".join(f"{reason}={count:,}" for reason, count in counts.items() if count)


def _coloured(state: str) -> str:
    colour = _COLOURS.get(state)
    return f"[{colour}]{state}[/]" if colour else state


def _duration(seconds: float) -> str:
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


def _table(*columns: str, numbers: Iterable[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", no_wrap=True)
    return table


def _console() -> Console:
    """A console that does not cut lines where its output is read by a program."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    return console
