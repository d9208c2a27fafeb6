"""``mpnet demo``: the whole product at work, in a minute, in a network namespace of its own."""

import click
import msgspec
from rich.console import Console, RenderableType
from rich.padding import Padding

from mpnet.cli.options import json_output, print_json
from mpnet.cli.sheet import Column, Sheet
from mpnet.demo.demo import run
from mpnet.demo.prepare import Choice
from mpnet.demo.summary import Experiment, Part, Summary
from mpnet.demo.talk import Talk
from mpnet.interrupt import Interrupted

_SIGNAL_STATUS = 128
_WAYS = {"rx": "to the guest", "tx": "from the guest"}


@click.command()
@click.option(
    "--guest",
    type=click.Choice(["embedded", "qemu"]),
    envvar="MPNET_GUEST",
    help="embedded: mpnet's own driver alone; qemu: a Linux guest after it, and install what that needs. "
    "Default: Linux too where QEMU is on the machine.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    default=5,
    show_default=True,
    envvar="MPNET_SECONDS",
    help="Traffic for each guest.",
)
@click.option(
    "--experiment/--no-experiment",
    default=True,
    show_default=True,
    envvar="MPNET_EXPERIMENT",
    help="End with a small experiment and its report.",
)
@json_output
@click.pass_context
def demo(ctx: click.Context, guest: Choice | None, seconds: float, experiment: bool, as_json: bool) -> None:
    """Show a device at work: its workers, a guest, and the host's kernel on the other side.

    Nothing outside the demo's own network namespace is touched, and nothing is left behind but the
    report of the experiment, in the place of the last one. Exit status 1 if
    something did not work.
    """
    console = Console(stderr=as_json, highlight=False)
    try:
        summary = run(Talk(console), guest, seconds, experiment=experiment)
    except Interrupted as interrupted:
        console.print(f"\nended by signal {interrupted.number}; everything is taken down again")
        ctx.exit(_SIGNAL_STATUS + interrupted.number)
    if as_json:
        print_json(msgspec.to_builtins(summary))
    else:
        _print(console, summary)
    ctx.exit(0 if summary.ok else 1)


def _print(console: Console, summary: Summary) -> None:
    console.print()
    for part in summary.parts:
        console.print(f"[bold]Summary, {part.guest}[/] ({part.seconds:.1f} s of traffic)")
        console.print(_table(part))
    if summary.experiment is not None:
        _print_experiment(console, summary.experiment)
    first = summary.start_to_first_packet_seconds
    if first is not None:
        console.print(f"  {first:.2f} s from the start of 'mpnet run' to the first packet")
    if summary.skipped:
        console.print(f"  no Linux guest: {summary.skipped}")
    console.print(f"  [bold]{_verdict(summary)}[/], in {summary.seconds:.0f} s; {_left(summary)}")


def _verdict(summary: Summary) -> str:
    if not summary.ok:
        return "[red]something did not work: see ✗ above[/]"
    if summary.left_out:
        return f"[yellow]what was shown worked, but without {' and '.join(summary.left_out)}: see above[/]"
    return "[green]everything worked[/]"


def _left(summary: Summary) -> str:
    report = summary.experiment is not None and not summary.experiment.skipped
    return "only the report is left behind" if report else "nothing is left behind"


def _print_experiment(console: Console, experiment: Experiment) -> None:
    if experiment.skipped:
        console.print(f"  no experiment: {experiment.skipped}", soft_wrap=True, markup=False)
        return
    console.print("[bold]Summary, experiment[/] (a few short trials: a picture, not a claim)")
    sheet = Sheet(
        Column("configuration", key=True, wrap=True),
        *(Column(name, right=True) for name in ("packets/s", "95 % interval", "ns of processor a packet")),
    )
    for row in experiment.rows:
        cost = "" if row.cpu_ns_per_packet is None else f"{row.cpu_ns_per_packet:,.0f}"
        interval = f"{row.low:,.0f} to {row.high:,.0f}"
        sheet.add(row.configuration, f"{row.packets_per_second:,.0f}", interval, cost)
    console.print(Padding(sheet, (0, 0, 0, 2)))
    console.print(f"  report, until the next demo: {experiment.report}", soft_wrap=True)


def _table(part: Part) -> RenderableType:
    sheet = Sheet(
        Column("queue pair", key=True),
        *(Column(name, right=True) for name in ("frames", "a second", "Mbit/s", "kicks", "calls")),
        Column("drops", wrap=True),
    )
    for each in part.rings:
        sheet.add(
            f"{each.queue} {each.direction} {_WAYS[each.direction]}",
            f"{each.frames:,}",
            f"{each.frames / part.seconds:,.0f}",
            f"{each.bytes * 8e-6 / part.seconds:,.0f}",
            f"{each.kicks:,}",
            f"{each.calls:,}",
            ", ".join(f"{reason} {count:,}" for reason, count in each.drops.items()) or "none",
        )
    return Padding(sheet, (0, 0, 0, 2))
