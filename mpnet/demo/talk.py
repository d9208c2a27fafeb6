"""What the demo tells a person: steps done, what is waited for, a live line per queue."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table

from mpnet.demo.meter import Meter, Rates
from mpnet.demo.summary import Check

_TICK_SECONDS = 0.25
_LINE_SECONDS = 1.0
_INDENT = 2


class Talk:
    """A terminal is drawn on; a pipe gets plain lines.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    def title(self, text: str) -> None:
        """Begin a part."""
        self._print(f"\n[bold]{text}[/]")

    def done(self, text: str) -> None:
        """A step that worked."""
        self._print(f"  [green]✓[/] {text}")

    def failed(self, text: str) -> None:
        """A step that did not."""
        self._print(f"  [red]✗ {text}[/]")

    def check(self, check: Check) -> Check:
        """Tell a check and its figures; give it back."""
        (self.done if check.ok else self.failed)(f"{check.name}: {check.detail}")
        return check

    def note(self, text: str) -> None:
        """Something to know."""
        self._print(f"  [dim]{text}[/]")

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Say what takes its time, while the block runs."""
        if self._console.is_terminal:
            with self._console.status(f"{text} …"):
                yield
        else:
            self._print(f"  … {text}")
            yield

    def _print(self, text: str) -> None:
        # A pipe has no width to wrap at.
        self._console.print(text, soft_wrap=not self._console.is_terminal)

    @contextmanager
    def watching(self, meter: Meter) -> Iterator["Watch"]:
        """Show each queue's rates while the block runs; the block has to call ``Watch.look``."""
        watch = Watch(self._console, meter)
        with watch.live:
            yield watch


class Watch:
    """The live lines of a device's queue pairs."""

    def __init__(self, console: Console, meter: Meter) -> None:
        self._console = console
        self._meter = meter
        self._started = self._shown = time.monotonic()
        # Transient: what stays on the screen is the summary. A pipe is shown lines instead.
        self.live = Live(console=console, auto_refresh=False, transient=True)

    def look(self, seconds: float = _TICK_SECONDS) -> None:
        """Wait ``seconds``, then show what the queues did."""
        time.sleep(seconds)
        now = time.monotonic()
        if self._console.is_terminal:
            self.live.update(live_table(self._meter.rates(), now - self._started), refresh=True)
        elif now - self._shown >= _LINE_SECONDS:
            self._shown = now
            for rates in self._meter.rates():
                self._console.print(_line(rates, now - self._started), soft_wrap=True)


def live_table(rates: list[Rates], seconds: float) -> RenderableType:
    """A line per queue pair; rx and tx are the guest's, a burst is what a worker moves at a time."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"{seconds:.0f} s", no_wrap=True)
    for name in ("rx frames/s", "Mbit/s", "tx frames/s", "Mbit/s", "burst", "drops"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in rates:
        table.add_row(
            f"queue pair {each.queue}",
            f"{each.rx_frames:,.0f}",
            f"{each.rx_megabits:,.0f}",
            f"{each.tx_frames:,.0f}",
            f"{each.tx_megabits:,.0f}",
            f"{each.burst:.1f}",
            f"{each.drops:,}",
        )
    return Padding(table, (0, 0, 0, _INDENT))


def _line(each: Rates, seconds: float) -> str:
    return (
        f"  {seconds:3.0f} s  queue pair {each.queue}"
        f"  rx {each.rx_frames:9,.0f} frames/s {each.rx_megabits:6,.0f} Mbit/s"
        f"  tx {each.tx_frames:9,.0f} frames/s {each.tx_megabits:6,.0f} Mbit/s"
        f"  burst {each.burst:4.1f}  drops {each.drops:,}"
    )
