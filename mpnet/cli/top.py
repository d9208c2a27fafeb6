"""``mpnet top``: a live view of devices, queue pairs and workers."""

import sys
import time

import click
import msgspec

from mpnet.cli.options import complete_device
from mpnet.errors import MpnetError
from mpnet.top.rates import Sampler


@click.command()
@click.argument("devices", nargs=-1, metavar="[DEVICE]...", shell_complete=complete_device)
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1, max=3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks.",
)
@click.option("--json-stream", is_flag=True, help="Print JSON, one line a look, in place of the view.")
@click.option("-c", "--count", type=click.IntRange(min=1), metavar="N", help="With --json-stream: end after N.")
def top(devices: tuple[str, ...], interval: float, json_stream: bool, count: int | None) -> None:
    """Show what devices do, live: rates, drops, batches, processor time.

    Tab changes between queue pairs, devices and workers, Enter looks into a row, Escape goes back, s sorts by the
    next column and r the other way round, p holds the figures, ? tells more, q ends. Figures come from shared
    memory, also when the control process is busy or dead.
    """
    sampler = Sampler(devices)
    sampler.require()
    for name, error in sampler.refused.items():
        click.echo(f"mpnet: warning: device {name} is left out: {error}", err=True)
    if json_stream:
        _stream(sampler, interval, count)
        return
    if not (sys.stdout.isatty() and sys.stdin.isatty()):
        raise MpnetError("standard input and output are no terminal", "use --json-stream")
    from mpnet.top.view import Top  # noqa: PLC0415 - a stream needs no screen, which takes long to import

    Top(sampler, interval).run()


def _stream(sampler: Sampler, interval: float, count: int | None) -> None:
    """Print rates, from the second look on: the first one has none."""
    sampler.sample()
    printed = 0
    try:
        while count is None or printed < count:
            time.sleep(interval)
            click.echo(msgspec.json.encode(sampler.sample()))
            printed += 1
    except KeyboardInterrupt:
        return
