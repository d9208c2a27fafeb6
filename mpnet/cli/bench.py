"""``mpnet bench``: this machine, mpnet against its peers, ratios in one run."""

import tempfile
from contextlib import nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from click.shell_completion import CompletionItem
from rich.console import Console
from rich.markup import escape

from mpnet.bench.case import CASES, NAMES
from mpnet.cli.compile import compile_first
from mpnet.cli.options import json_output, print_json
from mpnet.cli.sheet import Column, Sheet, console
from mpnet.cli.trials import follow, write_columns
from mpnet.errors import MpnetError
from mpnet.experiment.local import run_here
from mpnet.experiment.results import failed, read_records
from mpnet.interrupt import Interrupted, interruptible

if TYPE_CHECKING:
    from mpnet.experiment.benchmark import Benchmark

_SIGNAL_STATUS = 128
_PEERS = ("limit", "qemu", "dpdk")
"""Told here too: the systems take half a second to import."""


class CaseName(click.ParamType):  # type: ignore[type-arg,unused-ignore] # generic from click 8.4 on
    """A case, or what several begin with; all of them are too many to list in a line."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Take a name that there is."""
        if value not in NAMES:
            close = get_close_matches(value, NAMES, n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else "'mpnet bench --list' tells them"
            self.fail(f"there is no case {value!r}: {hint}", param, ctx)
        return value

    def shell_complete(
        self, _ctx: click.Context, _param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Complete one that there is."""
        return [CompletionItem(name) for name in NAMES if name.startswith(incomplete)]


def _list_cases(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    sheet = Sheet(Column("case", key=True), Column("", wrap=True))
    for case in CASES.values():
        sheet.add(case.name, escape(case.about))
    console().print(sheet)
    ctx.exit()


@click.command()
@click.option(
    "--case",
    "cases",
    multiple=True,
    type=CaseName(),
    envvar="MPNET_CASE",
    help="Run only this, or what begins so, as tx, rtt or ring-64; again for more. --list tells them.",
)
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_cases,
    help="List the cases and leave.",
)
@click.option(
    "--quick",
    is_flag=True,
    envvar="MPNET_QUICK",
    help="One turn of mpnet alone, and one line: a first impression, in seconds.",
)
@click.option(
    "--peer",
    "peers",
    multiple=True,
    type=click.Choice(_PEERS),
    envvar="MPNET_PEER",
    help="Compare only with this; again for more. Default: all that are on this machine.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=5),
    default=5,
    show_default=True,
    envvar="MPNET_ROUNDS",
    help="Rounds that count, after a warm-up; in each, every system has its turn.",
)
@click.option(
    "--duration",
    type=click.FloatRange(min=0.01),
    default=1,
    show_default=True,
    envvar="MPNET_DURATION",
    help="Seconds of a turn.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    envvar="MPNET_OUTPUT",
    help="Keep every turn in this folder, for 'mpnet experiment report' and 'compare'; an earlier run of the "
    "same in it is gone on with.",
)
@json_output
@click.pass_context
def bench(ctx: click.Context, /, output: Path | None, as_json: bool, **chosen: Any) -> None:
    """Measure mpnet and its peers at the same work, in turn, and compare.

    A ratio above 1 says that mpnet is that many times better, for time and cost too. Nothing outside the bench's
    own network namespace is touched, and nothing is left behind. A peer that fails is left out and named, and the
    exit status is then 1. For a first impression in a line: mpnet bench --quick.
    """
    talk = Console(stderr=True, highlight=False)
    # Only here: the systems take half a second to import.
    from mpnet.experiment.benchmark import Choice, benchmark, document  # noqa: PLC0415

    made = benchmark(Choice(**chosen))
    try:
        with (
            interruptible(),
            nullcontext(output) if output else tempfile.TemporaryDirectory(prefix="mpnet-bench-") as folder,
        ):
            compile_first(talk)
            _run(talk, made, Path(folder))
            records = read_records(Path(folder))
            whole = msgspec.to_builtins(document(made, records))
    except Interrupted as interrupted:
        talk.print(f"\nended by signal {interrupted.number}; everything is taken down again")
        ctx.exit(_SIGNAL_STATUS + interrupted.number)
    if output:
        write_columns(talk, output)
        talk.print(f"next: mpnet experiment report {output}", soft_wrap=True)
    if as_json:
        print_json(whole)
    elif chosen["quick"]:
        click.echo(_line(whole))
    else:
        _print(whole)
    ctx.exit(1 if failed(records) else 0)


def _run(talk: Console, made: "Benchmark", path: Path) -> None:
    """Run every turn that is not in the folder yet; a peer that fails is told of, and the others go on.

    Raises:
        MpnetError: mpnet's own device failed, which there is nothing to compare with then.
    """
    for record in follow(talk, made.sweep, path, run_here):
        if record.error and record.factors["system"] == "mpnet":
            raise MpnetError(f"{record.factors['case']} on mpnet: {record.error}")


def _print(whole: dict[str, Any]) -> None:
    screen = console()
    sheet = Sheet(
        *(Column(name, key=True) for name in ("case", "system")),
        *(Column(name, right=True) for name in ("median", "lowest", "highest")),
        Column(""),
        Column("times better", right=True),
    )
    before = ""
    for result in whole["results"]:
        sheet.add("" if result["case"] == before else result["case"], *_cells(result))
        before = result["case"]
    screen.print(sheet)
    environment = whole["environment"]
    if environment["noise"]:
        screen.print("These ratios mean nothing, repeat the run on a quieter machine:")
    for reason in environment["noise"]:
        screen.print(f"[yellow]noise[/]: {reason}", soft_wrap=True)
    for name, reason in environment["skipped"].items():
        screen.print(f"left out: {name}: {reason}", soft_wrap=True)
    screen.print(_where(environment), soft_wrap=True)


def _line(whole: dict[str, Any]) -> str:
    """All figures in one line."""
    figures = [f"{each['case']} {_number(each['median'])} {each['unit']}" for each in whole["results"]]
    seconds = whole["environment"]["flags"]["duration"]
    return f"{', '.join(figures)} (mpnet, one turn of {seconds:g} s each)"


def _cells(result: dict[str, Any]) -> list[str]:
    figures = [_number(each) for each in (result["median"], *result["spread"])]
    ratio = "" if result["ratio"] is None or result["system"] == "mpnet" else f"{result['ratio']:.2f}"
    return [result["system"], *figures, result["unit"], ratio]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _where(environment: dict[str, Any]) -> str:
    flags = environment["flags"]
    load = " → ".join(f"{load:.1f}" for load in environment["load_average"])
    lost = f"stolen {environment['steal']:.1%}, waited {environment['wait']:.1%}"
    places = f"driver on processor {environment['driver_cpu']}, device on {environment['device_cpu']}"
    if environment["distance_ns"]:
        nearest, middle, farthest = environment["distance_ns"]
        places += f", {nearest:.0f} to {farthest:.0f} ns apart, {middle:.0f} in the median"
    return (
        f"{environment['cpu']}, {environment['cpus']} processors, Linux {environment['kernel'].split()[0]}; "
        f"load {load}, {lost}; {places}; {flags['rounds']} rounds of {flags['duration']:g} s"
    )
