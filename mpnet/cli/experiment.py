"""``mpnet experiment``: a question as a file, trials in random order, a report with intervals."""

import time
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from mpnet.cli.options import json_output, print_json
from mpnet.errors import MpnetError
from mpnet.experiment import templates
from mpnet.experiment.extras import REPORT, need, need_all
from mpnet.experiment.factors import label, plain, varied
from mpnet.experiment.local import run_here
from mpnet.experiment.record import Record
from mpnet.experiment.results import failed, read_records
from mpnet.experiment.run import Runner
from mpnet.experiment.run import run as run_sweep
from mpnet.experiment.sweep import Sweep
from mpnet.experiment.sweep import read as read_sweep
from mpnet.interrupt import Interrupted, interruptible

_SIGNAL_STATUS = 128


@click.group()
def experiment() -> None:
    """Run designed experiments: what do queues, workers, rings and options buy?"""


@experiment.command()
@click.option(
    "--template",
    default=templates.START,
    show_default=True,
    envvar="MPNET_TEMPLATE",
    help=f"What to begin with: {', '.join(templates.names())}.",
)
@click.argument("file", type=click.Path(path_type=Path))
def new(template: str, file: Path) -> None:
    """Write a commented sweep to FILE."""
    text = templates.text(template)
    try:
        with file.open("x", encoding="utf-8") as target:
            target.write(text)
    except FileExistsError:
        raise MpnetError(f"{file} exists", "choose another name, or remove it") from None
    except OSError as error:
        raise MpnetError(f"cannot write {file}: {error.strerror}") from None
    click.echo(f"mpnet experiment run {file}")


@experiment.command()
@click.argument("sweep", metavar="SWEEP.toml", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    envvar="MPNET_OUTPUT",
    help="Folder of the results; an earlier run in it is gone on with. Default: SWEEP-results, here.",
)
@click.option(
    "--scheduler",
    metavar="tcp://HOST:PORT",
    envvar="MPNET_SCHEDULER",
    help="Run on the hosts of this dask scheduler, one trial at a time on each.",
)
@click.pass_context
def run(ctx: click.Context, sweep: Path, output: Path | None, scheduler: str | None) -> None:
    """Run the trials of SWEEP.toml that its folder of results does not have yet.

    Trials run in network namespaces of their own; nothing outside them is touched. Exit status 1 if one failed.
    """
    read = read_sweep(sweep)
    path = output or Path(f"{sweep.stem}-results")
    talk = Console(stderr=True, highlight=False)
    try:
        with interruptible():
            _run(talk, read, path, _runner(scheduler))
    except Interrupted as interrupted:
        talk.print(f"ended by signal {interrupted.number}; the same command goes on where it was")
        ctx.exit(_SIGNAL_STATUS + interrupted.number)
    _columns(talk, path)
    bad = failed(read_records(path))
    for record in bad:
        talk.print(f"[red]failed[/]: trial {record.trial}: {record.error}", soft_wrap=True)
    click.echo(path)
    talk.print(f"next: mpnet experiment report {path}", soft_wrap=True)
    ctx.exit(1 if bad else 0)


def _columns(talk: Console, path: Path) -> None:
    """Write the tables of columns; who lacks the library has the records all the same."""
    try:
        need("pyarrow", "writing Parquet")
    except MpnetError as error:
        talk.print(f"no Parquet: {error}", soft_wrap=True, markup=False)
        return
    from mpnet.experiment import parquet  # noqa: PLC0415 - of an extra

    parquet.write(path, read_records(path))


@experiment.command()
@click.argument("results", metavar="DIR", type=click.Path(path_type=Path, exists=True))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="MPNET_OUTPUT",
    help="Folder of page and pictures. Default: report in DIR, or beside the document.",
)
def report(results: Path, output: Path | None) -> None:
    """Write a page about the results in DIR, or in a document of 'mpnet bench --json'.

    One HTML file that works without a network, and its pictures as PNG.
    """
    need_all(REPORT, "the report")
    from mpnet.experiment import frame  # noqa: PLC0415 - of an extra
    from mpnet.experiment.report import page  # noqa: PLC0415 - likewise

    read = frame.read(results)
    default = results / "report" if results.is_dir() else results.with_name(f"{results.stem}-report")
    try:
        click.echo(page.write(read, output or default))
    except OSError as error:
        raise MpnetError(f"cannot write the report: {error}", "choose another folder with -o") from None


@experiment.command()
@click.argument("before", metavar="A", type=click.Path(path_type=Path, exists=True))
@click.argument("after", metavar="B", type=click.Path(path_type=Path, exists=True))
@json_output
def compare(before: Path, after: Path, as_json: bool) -> None:
    """Tell what changed from the results in A to those in B, with intervals of 95 %.

    Configurations that both have are compared. A factor that is another throughout is what was changed.
    """
    need_all(REPORT, "comparing")
    from mpnet.cli.comparison import print_comparison  # noqa: PLC0415 - of an extra
    from mpnet.experiment import frame  # noqa: PLC0415 - likewise
    from mpnet.experiment.compare import compare as compare_results  # noqa: PLC0415 - likewise

    found = compare_results(frame.read(before), frame.read(after))
    if as_json:
        print_json(msgspec.to_builtins(found))
    else:
        print_comparison(found)


def _runner(scheduler: str | None) -> Runner:
    if scheduler is None:
        return run_here
    from mpnet.experiment.remote import run_on  # noqa: PLC0415 - dask is an extra

    return lambda trials: run_on(scheduler, trials)


def _run(talk: Console, sweep: Sweep, path: Path, runner: Runner) -> None:
    factors = varied([plain(each) for each in sweep.combinations])
    columns = BarColumn(), TextColumn("{task.completed}/{task.total}"), _Left(), TextColumn("{task.description}")
    with Progress(*columns, console=talk, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        for progress in run_sweep(sweep, path, runner):
            if progress.last is None:
                _begin(talk, progress.done, progress.total, progress.repaired)
                bar.update(task, completed=progress.done, total=progress.total, begun=progress.done)
            else:
                bar.update(task, completed=progress.done, description=_said(progress.last, factors))
                if not talk.is_terminal:
                    talk.print(
                        f"{progress.done}/{progress.total} {_said(progress.last, factors)}", soft_wrap=True
                    )


def _begin(talk: Console, done: int, total: int, repaired: int) -> None:
    if repaired:
        talk.print(f"removed {repaired} bytes of a record that was cut short; its trial is run again")
    talk.print(f"{total} trials, {done} of them done" if done else f"{total} trials", soft_wrap=True)


def _said(record: Record, factors: list[str]) -> str:
    """A trial and what came of it, on one line."""
    what = " ".join(f"{name}={label(record.factors[name])}" for name in factors)
    if record.error:
        return f"{what}: failed"
    figures = record.figures
    found = f"{figures['pps']:,.0f} packets/s" if "pps" in figures else f"p50 {figures['rtt_p50_us']:.1f} µs"
    return f"{what}: {found}" + (" (doubtful)" if record.anomalies else "")


class _Left(ProgressColumn):
    """Time left, from the trials of this run alone: rich's own counts those that were there as just done."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        """As minutes and seconds."""
        begun = task.fields.get("begun")
        started = task.start_time
        if begun is None or started is None or task.total is None or task.completed <= begun:
            return Text("-:--")
        each = (time.monotonic() - started) / (task.completed - begun)
        minutes, seconds = divmod(round(each * (task.total - task.completed)), 60)
        return Text(f"{minutes}:{seconds:02}", style="cyan")
