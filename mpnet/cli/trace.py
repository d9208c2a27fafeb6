"""``mpnet trace``: what a device's processes did last, read from its segment; no process of it need be alive."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import click

from mpnet.cli.options import ask_all, complete_device, connect, control_socket
from mpnet.segment.attachments import Attachments
from mpnet.segment.trace import KINDS, NO_SUBJECT, PAIR_KINDS, RING_KINDS, Event, Trace

_POLL_SECONDS = 0.1
_LOST = "lost"
_NANOSECONDS = 1_000_000_000


@click.command()
@click.argument("devices", nargs=-1, metavar="[DEVICE]...", shell_complete=complete_device)
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on.")
@click.option("--bursts", is_flag=True, help="Have every burst traced while this command runs; implies --follow.")
@click.option("-c", "--count", type=click.IntRange(min=1), metavar="N", help="End after N events.")
@click.option("-j", "--json", "as_json", is_flag=True, envvar="MPNET_JSON", help="Print JSON, one event a line.")
@control_socket
def trace(
    devices: tuple[str, ...],
    follow: bool,
    bursts: bool,
    count: int | None,
    as_json: bool,
    socket: Path | None,
) -> None:
    """Show what the processes of each DEVICE did last: rings, faults, stalls, restarts, sessions.

    Without a DEVICE, those of all devices. The last thousand events of each process are kept in shared memory,
    also when the process, or all of mpnet, has crashed.
    """
    with ExitStack() as stack:
        attachments = Attachments(devices)
        attachments.require()
        for name, error in attachments.refused.items():
            click.echo(f"mpnet: warning: device {name} is left out: {error}", err=True)
        if bursts:
            for name in devices or [each["id"] for each in ask_all(socket, "device.list")]:
                stack.enter_context(connect(socket, name)).call("trace.bursts", device=name)
        try:
            for line in islice(_lines(attachments, follow=follow or bursts), count):
                click.echo(json.dumps(line.document()) if as_json else line.text())
        except KeyboardInterrupt:
            return


@dataclass(frozen=True, slots=True)
class _Line:
    """An event, and whose it is.

    Attributes:
        device: by name.
        worker: slot of the worker that told it; None for control.
        event: the event.
        lost: that many events were overwritten unread; then ``event`` is the next one.
        pairs: queue pairs of the device.
    """

    device: str
    worker: int | None
    event: Event
    lost: int
    pairs: int

    def document(self) -> dict[str, Any]:
        """All of it as plain values."""
        moment = datetime.fromtimestamp(self.event.time_ns // _NANOSECONDS, UTC)
        head: dict[str, Any] = {
            "time": f"{moment:%Y-%m-%dT%H:%M:%S}.{self.event.time_ns % _NANOSECONDS:09}Z",
            "device": self.device,
            "process": "control" if self.worker is None else "worker",
            "worker": self.worker,
        }
        if self.lost:
            return head | {"event": _LOST, "count": self.lost}
        return head | {"number": self.event.number, "event": self._name(), **self._subject(), **self._values()}

    def text(self) -> str:
        """One line for people, in local time."""
        moment = datetime.fromtimestamp(self.event.time_ns // _NANOSECONDS).astimezone()
        who = "control" if self.worker is None else f"worker {self.worker}"
        micro = self.event.time_ns % _NANOSECONDS // 1000
        head = f"{moment:%F %T}.{micro:06}  {self.device}  {who:<9}  "
        if self.lost:
            return f"{head}{_LOST:<16}  {self.lost} events were overwritten before they were read"
        subject = " ".join(f"{name} {value}" for name, value in self._subject().items())
        values = " ".join(f"{name}={value}" for name, value in self._values().items())
        return f"{head}{self._name():<16}  {subject:<10}  {values}".rstrip()

    def _name(self) -> str:
        return KINDS.get(self.event.kind, f"kind_{self.event.kind}")

    def _subject(self) -> dict[str, Any]:
        subject = self.event.subject
        if subject == NO_SUBJECT:
            return {}
        if self.event.kind in PAIR_KINDS:
            return {"queue": subject}
        if self.event.kind not in RING_KINDS:
            return {"of": subject}
        if subject == 2 * self.pairs:
            return {"ring": "control"}
        return {"queue": subject // 2, "ring": ("rx", "tx")[subject % 2]}

    def _values(self) -> dict[str, int | str]:
        values = self.event.named_values()
        if "features" in values:
            values["features"] = f"{int(values['features']):#x}"
        return values


def _lines(attachments: Attachments, *, follow: bool) -> Iterator[_Line]:
    """Events of all traces, oldest first; with ``follow`` without end."""
    read: WeakKeyDictionary[Trace, int] = WeakKeyDictionary()
    while True:
        lines: list[_Line] = []
        for name, segment in attachments.current().items():
            for number, trace in enumerate(segment.traces):
                worker = None if number == segment.queue_pairs else number
                events, lost = trace.read(read.get(trace, 0))
                if lost and events and trace in read:
                    lines.append(_Line(name, worker, events[0], lost, segment.queue_pairs))
                lines += (_Line(name, worker, event, 0, segment.queue_pairs) for event in events)
                read[trace] = events[-1].number if events else read.get(trace, 0)
        yield from sorted(lines, key=lambda line: line.event.time_ns)
        if not follow:
            return
        time.sleep(_POLL_SECONDS)
