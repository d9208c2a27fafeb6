"""What people see of devices and workers: tables on standard output."""

from collections.abc import Iterable, Iterator

import msgspec
from rich.markup import escape
from rich.table import Table

from mpnet.cli.sheet import Column, Sheet, console
from mpnet.rpc.state import DeviceReport, RingReport, SessionReport, WorkerReport

_COLOURS = {"running": "green", "connected": "yellow", "waiting": "yellow", "broken": "red", "unshared": "red"}


def print_devices(reports: Iterable[DeviceReport]) -> None:
    """Print a line per device."""
    sheet = Sheet(
        Column("device", key=True),
        Column("state"),
        Column("queue pairs", right=True),
        Column("workers", right=True),
        Column("tap", wrap=True),
        Column("socket"),
    )
    for report in reports:
        sheet.add(
            report.id,
            _coloured(report.state),
            f"{report.enabled_pairs}/{report.queue_pairs}",
            str(len(report.workers)),
            escape(report.tap.name) if report.tap else f"none ({report.config.backend})",
            escape(report.config.socket),
        )
    console().print(sheet)


def print_workers(reports: Iterable[WorkerReport]) -> None:
    """Print a line per worker."""
    sheet = Sheet(
        Column("device", key=True),
        Column("worker", right=True, key=True),
        Column("pid", right=True),
        Column("state"),
        Column("cpu", right=True),
        Column("queue pairs", wrap=True),
        Column("engine"),
        Column("code"),
        Column("up", right=True),
        Column("restarts", wrap=True),
    )
    for report in reports:
        sheet.add(
            report.device,
            str(report.slot),
            "" if report.pid is None else str(report.pid),
            _coloured(report.state),
            "any" if report.cpu is None else str(report.cpu),
            " ".join(map(str, report.pairs)) or "none",
            report.engine,
            report.code,
            "" if report.age is None else _duration(report.age),
            _reasons(report.restarts) or "0",
        )
    console().print(sheet)


def print_device(report: DeviceReport) -> None:
    """Print all about a device."""
    screen = console()
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(report):
        facts.add_row(f"[bold]{name}[/]", value)
    screen.print(facts)
    screen.print(_rings(report))
    print_workers(msgspec.structs.replace(worker, device=report.id) for worker in report.workers)


def _facts(report: DeviceReport) -> Iterator[tuple[str, str]]:
    offered = [name for name in report.features_offered if name not in report.features]
    peer, first = report.session.front_end, report.start_to_first_packet_seconds
    yield "device", report.id
    yield "state", f"{_coloured(report.state)} ({escape(report.session.state)})"
    yield "front-end", f"{escape(peer.name)}, process {peer.pid}" if peer else "none"
    yield "memory", _memory(report.session)
    yield "socket", escape(report.config.socket)
    yield "back-end", _backend(report)
    yield "mac", report.mac
    yield "mtu", str(report.mtu)
    yield "link", report.link
    yield "polling", f"for up to {report.poll_us} µs before sleeping" if report.poll_us else "off"
    yield (
        "queue pairs",
        f"{report.enabled_pairs} in use, {report.offered_pairs} offered, {report.queue_pairs} in all",
    )
    yield "connections", str(report.session.connections)
    yield "features", " ".join(report.features) or "none negotiated"
    yield "offered only", " ".join(offered) or "none"
    yield "start to first packet", "no packet yet" if first is None else _first_packet(first, report)


def _first_packet(seconds: float, report: DeviceReport) -> str:
    """How long the first packet took, and how much of it was waiting for a guest."""
    waited = report.start_to_first_ring_seconds
    return f"{seconds:.3f} s" + ("" if waited is None else f", {waited:.3f} s of them until a guest came")


def _backend(report: DeviceReport) -> str:
    if report.tap is None:
        return report.config.backend
    state = "up" if report.tap.up else "[red]down[/]" if report.tap.present else "[red]gone[/]"
    return f"TAP {escape(report.tap.name)}, {state}"


def _memory(session: SessionReport) -> str:
    regions, unshared = session.memory_regions, session.memory_regions_unshared
    if unshared:
        return f"[red]{unshared} of {regions} regions are not shared: give the guest's memory share=on[/]"
    if session.unmapped_rings:
        return f"[red]a ring lies in none of {regions} regions: give the guest's memory share=on[/]"
    return f"{regions} region{'s' if regions > 1 else ''}" if regions else "none"


def _rings(report: DeviceReport) -> Sheet:
    counters = ("size", "ready", "packets", "bytes", "kicks", "calls", "suppressed")
    sheet = Sheet(
        Column("queue", right=True, key=True),
        Column("ring", key=True),
        Column("worker", right=True),
        Column("state", wrap=True),
        *(Column(name, right=True) for name in counters),
        Column("drops", wrap=True),
    )
    for ring in report.rings:
        queue, worker = ("" if number is None else str(number) for number in (ring.queue, ring.worker))
        sheet.add(queue, ring.direction, worker, *_ring_cells(ring))
    return sheet


def _ring_cells(ring: RingReport) -> Iterator[str]:
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
