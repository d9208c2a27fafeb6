"""A live line per queue pair, while traffic runs."""

import time
from typing import Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table

from mpnet.demo.meter import Meter, Rates

_TICK_SECONDS = 0.25
_LINE_SECONDS = 1.0
_INDENT = 2


class Watch:
    """The live lines of a device's queue pairs; a context manager, whose block has to call ``look``.

    Args:
        console: where to; a pipe gets a line a second.
        meter: of the device.
    """

    def __init__(self, console: Console, meter: Meter) -> None:
        self._console = console
        self._meter = meter
        self._started = self._shown = time.monotonic()
        # Transient: what stays on the screen is the summary. A pipe is shown lines instead.
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def look(self, seconds: float = _TICK_SECONDS) -> None:
        """Wait ``seconds``, then show what the queues did."""
        time.sleep(seconds)
        now = time.monotonic()
        if self._console.is_terminal:
            self._live.update(live_table(self._meter.rates(), now - self._started), refresh=True)
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
