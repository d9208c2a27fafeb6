"""What is in the tables of ``mpnet top``: columns, rows, and by what they can be sorted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mpnet.top.history import History
from mpnet.top.rates import DeviceRates, DirectionRates, QueueRates, Snapshot, WorkerRates

_UNITS = ("", "k", "M", "G", "T")
_NARROW_TREND, _WIDE_TREND = 10, 40
_WIDE = 120
"""Columns of a terminal from which on there is room for a long trend."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        title: its head.
        value: what it is sorted by, from a row's record.
        text: what is shown; None for the value itself.
    """

    title: str
    value: Callable[[Any], Any]
    text: Callable[[Any], str] | None = None

    def cell(self, record: Any) -> str:
        """What the column shows of a record."""
        return self.text(record) if self.text else str(self.value(record))


def number(value: float) -> str:
    """Write a rate in six characters or fewer: 0, 12, 4.71k, 1.20M."""
    for unit in _UNITS:
        if value < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1000
    if unit == "":
        return f"{value:.0f}"
    return f"{value:.{2 if value < 10 else 1 if value < 99.95 else 0}f}{unit}"


def _rate(title: str, value: Callable[[Any], float]) -> Column:
    return Column(title, value, lambda record: number(value(record)))


def _sum(name: str, direction: str) -> Callable[[DeviceRates], float]:
    return lambda device: sum(getattr(getattr(queue, direction), name) for queue in device.queues)


def _rates(find: Callable[[str, str], Callable[[Any], float]]) -> list[Column]:
    return [
        _rate("rx pps", find("packets", "rx")),
        _rate("tx pps", find("packets", "tx")),
        _rate("rx bps", find("bits", "rx")),
        _rate("tx bps", find("bits", "tx")),
        _rate("drops", lambda record: find("drops", "rx")(record) + find("drops", "tx")(record)),
    ]


DEVICES = (
    Column("device", lambda device: device.device),
    Column("state", lambda device: device.state),
    Column("pairs", lambda device: device.enabled_pairs, lambda d: f"{d.enabled_pairs}/{d.queue_pairs}"),
    *_rates(_sum),
)
WORKERS = (
    Column("device", lambda worker: worker.device),
    Column("worker", lambda worker: worker.worker),
    Column("pid", lambda worker: worker.pid, lambda worker: str(worker.pid) if worker.alive else "gone"),
    Column("cpu", lambda worker: worker.cpu, lambda worker: f"{100 * worker.cpu:.0f}%"),
    _rate("pps", lambda worker: worker.packets),
    Column("batch", lambda worker: worker.batch, lambda worker: f"{worker.batch:.1f}"),
    _rate("wakeups", lambda worker: worker.wakeups),
    Column("beat", lambda worker: worker.heartbeat_age, lambda worker: f"{worker.heartbeat_age:.1f}s"),
    Column("restarts", lambda worker: worker.restarts),
    Column("queues", lambda worker: len(worker.queues), lambda worker: " ".join(map(str, worker.queues))),
)


def queue_columns(history: History, width: int) -> tuple[Column, ...]:
    """Columns of queue pairs, for a terminal of ``width`` columns."""

    def find(name: str, direction: str) -> Callable[[QueueRates], float]:
        return lambda queue: float(getattr(getattr(queue, direction), name))

    trend = _WIDE_TREND if width >= _WIDE else _NARROW_TREND
    return (
        Column("device", lambda queue: queue.device),
        Column("queue", lambda queue: queue.queue),
        Column("wkr", lambda queue: -1 if queue.worker is None else queue.worker, _worker_of),
        *_rates(find),
        Column(
            "trend", lambda queue: queue.packets, lambda queue: history.line(queue.device, queue.queue, trend)
        ),
        *([Column("state", _states)] if width >= _WIDE else []),
    )


def _worker_of(queue: QueueRates) -> str:
    return "none" if queue.worker is None else str(queue.worker)


def _states(queue: QueueRates) -> str:
    return f"{_state(queue.rx)} / {_state(queue.tx)}"


def _state(direction: DirectionRates) -> str:
    return f"{direction.state} ({direction.fault})" if direction.state == "broken" else direction.state


DEFAULT_SORT: Mapping[str, str] = MappingProxyType({"devices": "device", "queues": "device", "workers": "device"})
"""The column each table is sorted by at first."""


def queue_text(queue: QueueRates, worker: WorkerRates | None, history: History, width: int) -> str:
    """All about one queue pair."""
    lines = [f"{queue.device}  queue pair {queue.queue}  worker {_worker_of(queue)}", ""]
    lines.append(f"{'':14}{'rx':>14}{'tx':>14}")
    both = (queue.rx, queue.tx)
    rows: list[tuple[str, Callable[[DirectionRates], str]]] = [
        ("state", lambda ring: ring.state),
        ("fault", lambda ring: ring.fault),
        ("packets/s", lambda ring: number(ring.packets)),
        ("bits/s", lambda ring: number(ring.bits)),
        ("kicks/s", lambda ring: number(ring.kicks)),
        ("calls/s", lambda ring: number(ring.calls)),
        ("drops/s", lambda ring: number(ring.drops)),
        ("ready", lambda ring: f"{ring.ready}/{ring.entries}"),
        ("packets", lambda ring: f"{ring.total_packets:,}"),
    ]
    lines += [f"{title:14}{text(both[0]):>14}{text(both[1]):>14}" for title, text in rows]
    for direction, ring in (("rx", queue.rx), ("tx", queue.tx)):
        reasons = " ".join(f"{reason}={count:,}" for reason, count in ring.total_drops.items())
        lines.append(f"{direction + ' drops':14}{reasons or 'none'}")
    if worker is not None:
        lines.append(
            f"{'worker':14}{100 * worker.cpu:.0f}% cpu, {worker.batch:.1f} packets a burst, pid {worker.pid}"
        )
    return "\n".join([*lines, "", history.line(queue.device, queue.queue, max(10, min(width - 4, 100)))])


def records(snapshot: Snapshot, kind: str, device: str | None, worker: int | None) -> list[Any]:
    """The rows of a table.

    Args:
        snapshot: where from.
        kind: "devices", "queues" or "workers".
        device: those of one device; None for all.
        worker: those of one worker of it; None for all.
    """
    devices = [each for each in snapshot.devices if device in {None, each.device}]
    if kind == "devices":
        return list(devices)
    if kind == "workers":
        return [each for one in devices for each in one.workers]
    return [each for one in devices for each in one.queues if worker in {None, each.worker}]


def key_of(record: DeviceRates | QueueRates | WorkerRates) -> str:
    """What tells a row from the others of its table."""
    match record:
        case QueueRates():
            return f"{record.device} {record.queue}"
        case WorkerRates():
            return f"{record.device} {record.worker}"
    return record.device
