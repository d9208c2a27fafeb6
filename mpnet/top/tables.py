"""What is in the tables of ``mpnet top``: columns, rows, and by what they can be sorted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from mpnet.top.history import History
from mpnet.top.rates import DeviceRates, DirectionRates, QueueRates, Snapshot, WorkerRates

_UNITS = ("", "k", "M", "G", "T")
_SHORTEST_TREND, _LONGEST_TREND = 5, 40
_WIDE = 120
"""Columns of a terminal from which on there is room for words of state."""
_PADDING = 2
"""Columns of a terminal between two of a table's."""
_SHORT = MappingProxyType({"running": "run", "stopped": "stop", "disabled": "off", "broken": "BROKEN"})


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        title: its head.
        value: what it is sorted by, from a row's record.
        text: what is shown; None for the value itself.
        rank: where a terminal is too narrow for all, the highest is left out first; 0 never.
    """

    title: str
    value: Callable[[Any], Any]
    text: Callable[[Any], str] | None = None
    rank: int = 0

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


def _rate(title: str, value: Callable[[Any], float], rank: int = 0) -> Column:
    return Column(title, value, lambda record: number(value(record)), rank)


def _sum(name: str, direction: str) -> Callable[[DeviceRates], float]:
    return lambda device: sum(getattr(getattr(queue, direction), name) for queue in device.queues)


def _rates(find: Callable[[str, str], Callable[[Any], float]]) -> list[Column]:
    return [
        _rate("rx pps", find("packets", "rx")),
        _rate("tx pps", find("packets", "tx")),
        _rate("rx bps", find("bits", "rx"), rank=1),
        _rate("tx bps", find("bits", "tx"), rank=1),
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
    Column("batch", lambda worker: worker.batch, lambda worker: f"{worker.batch:.1f}", rank=1),
    _rate("wakeups", lambda worker: worker.wakeups, rank=2),
    Column("beat", lambda worker: worker.heartbeat_age, lambda worker: f"{worker.heartbeat_age:.1f}s"),
    Column("restarts", lambda worker: worker.restarts),
    Column("code", lambda worker: worker.code, rank=1),
    Column("queues", lambda worker: len(worker.queues), lambda worker: " ".join(map(str, worker.queues))),
)


def queue_columns(history: History, width: int) -> tuple[Column, ...]:
    """Columns of queue pairs, for a terminal of ``width`` columns."""

    def find(name: str, direction: str) -> Callable[[QueueRates], float]:
        return lambda queue: float(getattr(getattr(queue, direction), name))

    def trend(queue: QueueRates) -> str:
        return history.line(queue.device, queue.queue, _LONGEST_TREND)

    return (
        Column("device", lambda queue: queue.device),
        Column("queue", lambda queue: queue.queue),
        Column("wkr", lambda queue: -1 if queue.worker is None else queue.worker, _worker_of, rank=2),
        *_rates(find),
        Column("cpu", lambda queue: -1 if queue.cpu is None else queue.cpu, _cpu),
        Column("state", _states, _states if width >= _WIDE else _short_states),
        Column(TREND, lambda queue: queue.packets, trend, rank=3),
    )


TREND = "trend"
"""The column that takes what the others leave of a line."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """What of a table a terminal has room for.

    Attributes:
        columns: those that are shown.
        left_out: titles of the others.
    """

    columns: tuple[Column, ...]
    left_out: tuple[str, ...]


def fit(columns: Sequence[Column], rows: Sequence[Any], width: int) -> Fitted:
    """Leave out columns, whole, until the others fit; the trend is as long as there is room for.

    Args:
        columns: all of them.
        rows: what is shown.
        width: of the terminal.
    """

    def needed(column: Column) -> int:
        if column.title == TREND:
            return _SHORTEST_TREND + _PADDING
        return max([len(column.title), *(len(column.cell(row)) for row in rows)]) + _PADDING

    shown = list(columns)
    room = width - 1 - sum(map(needed, shown))  # one for the arrow at the head that it is sorted by
    while room < 0 and any(column.rank for column in shown):
        column = max(reversed(shown), key=lambda column: column.rank)
        shown.remove(column)
        room += needed(column)
    length = min(_LONGEST_TREND, _SHORTEST_TREND + max(0, room))
    fitted = (replace(each, text=_last(each, length)) if each.title == TREND else each for each in shown)
    return Fitted(tuple(fitted), tuple(column.title for column in columns if column not in shown))


def _last(column: Column, length: int) -> Callable[[Any], str]:
    return lambda record: column.cell(record)[-length:]


def _worker_of(queue: QueueRates) -> str:
    return "none" if queue.worker is None else str(queue.worker)


def _cpu(queue: QueueRates) -> str:
    return "" if queue.cpu is None else f"{100 * queue.cpu:.0f}%"


def _short_states(queue: QueueRates) -> str:
    """One word where rx and tx do the same."""
    return "/".join(dict.fromkeys(_SHORT.get(ring.state, ring.state) for ring in (queue.rx, queue.tx)))


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
