"""``mpnet experiment``: a question as a file, trials in random order, a report with intervals."""

import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from mpnet.errors import MpnetError
from mpnet.experiment import templates
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
    bad = failed(read_records(path))
    for record in bad:
        talk.print(f"[red]failed[/]: trial {record.trial}: {record.error}", soft_wrap=True)
    click.echo(path)
    talk.print(f"next: mpnet experiment report {path}", soft_wrap=True)
    ctx.exit(1 if bad else 0)


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
