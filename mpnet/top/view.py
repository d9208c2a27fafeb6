"""The screen of ``mpnet top``."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.events import Key
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Static

from mpnet.top.history import History
from mpnet.top.rates import Sampler, Snapshot
from mpnet.top.tables import (
    DEFAULT_SORT,
    DEVICES,
    WORKERS,
    Column,
    Fitted,
    fit,
    key_of,
    number,
    queue_columns,
    queue_text,
    records,
)

_KINDS = ("queues", "devices", "workers")
_ASCENDING = frozenset({"device", "queue", "worker", "wkr", "state", "pid"})


@dataclass(frozen=True, slots=True)
class _Place:
    """What is looked at.

    Attributes:
        kind: "devices", "queues", "workers", or "queue" for all about one.
        device: of one device only; None for all.
        worker: of one worker of it only.
        queue: the queue pair, where ``kind`` is "queue".
    """

    kind: str
    device: str | None = None
    worker: int | None = None
    queue: int | None = None

    def title(self) -> str:
        """For people."""
        parts = [self.kind]
        if self.device is not None:
            parts.append(f"of {self.device}")
        if self.worker is not None:
            parts.append(f"worker {self.worker}")
        return " ".join(parts)


_KEYS = """\
Tab              next of queue pairs, devices, workers
Enter, Escape    look into a row, and back
arrows           move to a row
s, r             sort by the next column, the other way round
p, Space         hold the figures, and go on
q, Ctrl-C        quit

rx, tx           to the guest, from the guest
pps, bps         packets a second, bits a second
wkr, cpu         the worker that serves a queue pair, and what it takes
                 of a processor, for all its queue pairs
state            of the rings: run, stop, off (disabled by the guest) or
                 BROKEN; rx/tx where they differ
drops            a second, of both; Enter tells them by reason
trend            packets a second of late

On a narrow screen columns are left out; the first line names them.
Any key goes back."""


class Keys(ModalScreen[None]):
    """What keys do and what columns are."""

    CSS = """
    Keys { align: center middle; }
    Keys Static { width: auto; max-width: 100%; height: auto; max-height: 100%; }
    Keys Static { padding: 0 2; background: $panel; }
    """

    def compose(self) -> ComposeResult:
        """One text."""
        yield Static(_KEYS, markup=False)

    def on_key(self, event: Key) -> None:
        """Go back, whatever the key; those of the table below are not for it."""
        event.stop()
        if event.key == "ctrl+c":
            self.app.exit()
        self.dismiss()


class Top(App[None]):
    """The live view.

    Args:
        sampler: where the figures come from.
        interval: seconds between two looks.
    """

    CSS = """
    #head { height: 1; background: $primary; color: $text; text-style: bold; }
    #detail { display: none; padding: 1 2; }
    DataTable { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "next_kind", "View", priority=True),
        Binding("enter", "open", "Open", priority=True),
        Binding("escape", "leave", "Back"),
        Binding("s", "sort", "Sort"),
        Binding("r", "reverse", "Reverse"),
        Binding("p,space", "pause", "Pause", priority=True),
        Binding("question_mark", "keys", "Keys"),
        Binding("q", "quit", "Quit"),
        # The framework's own asks to press another key.
        Binding("ctrl+c", "quit", show=False, priority=True),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, sampler: Sampler, interval: float) -> None:
        super().__init__()
        self._sampler = sampler
        self._interval = interval
        self._history = History()
        self._snapshot = Snapshot(time=0.0, seconds=0.0, devices=[])
        self._paused = False
        self._places = [_Place("queues")]
        self._sorts = {kind: (column, False) for kind, column in DEFAULT_SORT.items()}
        self._shown: tuple[str, ...] = ()

    def compose(self) -> ComposeResult:
        """The head, a table or the text about one queue pair, and the keys."""
        yield Static("", id="head", markup=False)
        table: DataTable[str] = DataTable(cursor_type="row", zebra_stripes=True)
        yield table
        yield Static("", id="detail", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Look at once, and then again and again."""
        self._look()
        self.set_interval(self._interval, self._look)

    def on_resize(self) -> None:
        """Lay the table out for the new width."""
        self._draw()

    def _look(self) -> None:
        if not self._paused:
            self._snapshot = self._sampler.sample()
            if self._snapshot.seconds:
                self._history.add(self._snapshot)
            self._draw()

    # Keys.

    def action_next_kind(self) -> None:
        """Show the next of queue pairs, devices and workers."""
        kind = self._places[0].kind
        self._places = [_Place(_KINDS[(_KINDS.index(kind) + 1) % len(_KINDS)])]
        self._draw()

    def action_open(self) -> None:
        """Look into the row under the cursor: a device's queue pairs, a worker's, or all about one."""
        table = self._table()
        if self._places[-1].kind == "queue" or not table.row_count:
            return
        device, _, rest = self._cursor_key().partition(" ")
        place = {
            "devices": _Place("queues", device),
            "workers": _Place("queues", device, int(rest or 0)),
            "queues": replace(self._places[-1], kind="queue", device=device, queue=int(rest or 0)),
        }[self._places[-1].kind]
        self._places.append(place)
        self._draw()

    def action_leave(self) -> None:
        """Go back to where the row was opened."""
        if len(self._places) > 1:
            self._places.pop()
        self._draw()

    def action_sort(self) -> None:
        """Sort by the next column; the biggest first, but for names and numbers of things."""
        kind = self._places[-1].kind
        if kind in self._sorts:
            titles = [column.title for column in self._fitted(self._places[-1]).columns]
            now = self._sorts[kind][0]
            title = titles[(titles.index(now) + 1) % len(titles) if now in titles else 0]
            self._sorts[kind] = (title, title not in _ASCENDING)
        self._draw()

    def action_reverse(self) -> None:
        """Turn the order round."""
        kind = self._places[-1].kind
        if kind in self._sorts:
            title, descending = self._sorts[kind]
            self._sorts[kind] = (title, not descending)
        self._draw()

    def action_pause(self) -> None:
        """Hold the figures, or let them go on."""
        self._paused = not self._paused
        self._draw()

    def action_keys(self) -> None:
        """Tell what keys do and what the columns are, until the next key."""
        self.push_screen(Keys())

    # The screen.

    def _table(self) -> DataTable[str]:
        return self.screen_stack[0].query_one(DataTable)  # also while the keys are shown over it

    def _columns(self, kind: str) -> Sequence[Column]:
        if kind == "queues":
            return queue_columns(self._history, self.size.width)
        return DEVICES if kind == "devices" else WORKERS

    def _rows(self, place: _Place) -> list[Any]:
        return records(self._snapshot, place.kind, place.device, place.worker)

    def _fitted(self, place: _Place) -> Fitted:
        """The columns of a place that there is room for."""
        rows = self._rows(place)
        table = self._table()
        bar = table.styles.scrollbar_size_vertical if len(rows) + 1 > table.size.height else 0
        return fit(self._columns(place.kind), rows, self.size.width - bar)

    def _draw(self) -> None:
        place = self._places[-1]
        detail, table = self.screen_stack[0].query_one("#detail", Static), self._table()
        detail.display = place.kind == "queue"
        table.display = not detail.display
        if detail.display:
            detail.update(self._detail(place))
        else:
            self._fill(table, place)
        self.screen_stack[0].query_one("#head", Static).update(self._head(place))

    def _head(self, place: _Place) -> str:
        queues = [queue for device in self._snapshot.devices for queue in device.queues]
        rx, tx = (sum(getattr(queue, direction).packets for queue in queues) for direction in ("rx", "tx"))
        drops = sum(queue.drops for queue in queues)
        paused = " PAUSED" if self._paused else ""
        moment = datetime.fromtimestamp(self._snapshot.time).astimezone()
        rates = f"rx {number(rx)} tx {number(tx)} drops {number(drops)}"
        left_out = "" if place.kind == "queue" else ", ".join(self._fitted(place).left_out)
        wider = f"  wider: {left_out}" if left_out else ""
        return f" mpnet top  {moment:%T}  {rates}  {place.title()}{paused}{wider}"

    def _fill(self, table: DataTable[str], place: _Place) -> None:
        columns = self._fitted(place).columns
        title, descending = self._sorts[place.kind]
        rows = self._rows(place)
        by: Any = next((column.value for column in columns if column.title == title), key_of)
        rows.sort(key=by, reverse=descending)
        selected = self._cursor_key()
        heads = tuple(f"{column.title}{'▼' if descending else '▲'}" if column.title == title else column.title
                      for column in columns)  # fmt: skip
        if heads != self._shown:
            table.clear(columns=True)
            table.add_columns(*heads)
            self._shown = heads
        else:
            table.clear()
        for row in rows:
            table.add_row(*(column.cell(row) for column in columns), key=key_of(row))
        keys = [key_of(row) for row in rows]
        if selected in keys:
            table.move_cursor(row=keys.index(selected), animate=False)

    def _cursor_key(self) -> str:
        table = self._table()
        if not table.is_valid_coordinate(table.cursor_coordinate):
            return ""
        return str(table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value)

    def _detail(self, place: _Place) -> str:
        for device in self._snapshot.devices:
            for queue in device.queues:
                if (queue.device, queue.queue) == (place.device, place.queue):
                    workers = [worker for worker in device.workers if worker.worker == queue.worker]
                    return queue_text(queue, workers[0] if workers else None, self._history, self.size.width)
        return f"{place.device} is gone; it is shown again when it is back"
