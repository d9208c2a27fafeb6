"""``mpnet experiment``: a question as a file, trials in random order, a report with intervals."""

from pathlib import Path

import click
import msgspec
from rich.console import Console

from mpnet.cli.compile import compile_first
from mpnet.cli.options import json_output, print_json
from mpnet.cli.trials import follow, write_columns
from mpnet.errors import MpnetError
from mpnet.experiment import templates
from mpnet.experiment.extras import REPORT, need_all
from mpnet.experiment.local import run_here
from mpnet.experiment.results import failed, read_records
from mpnet.experiment.run import Runner
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
            if scheduler is None:
                compile_first(talk)
            for _ in follow(talk, read, path, _runner(scheduler)):
                pass  # shown as they come, read at the end
    except Interrupted as interrupted:
        talk.print(f"ended by signal {interrupted.number}; the same command goes on where it was")
        ctx.exit(_SIGNAL_STATUS + interrupted.number)
    write_columns(talk, path)
    bad = failed(read_records(path))
    for record in bad:
        talk.print(f"[red]failed[/]: trial {record.trial}: {record.error}", soft_wrap=True)
    _answer(talk, path)
    click.echo(path)
    talk.print(f"next: mpnet experiment report {path}", soft_wrap=True)
    ctx.exit(1 if bad else 0)


@experiment.command()
@click.argument("results", metavar="DIR", type=click.Path(path_type=Path, exists=True))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="MPNET_OUTPUT",
    help="Folder of page and pictures. Default: report in DIR.",
)
def report(results: Path, output: Path | None) -> None:
    """Write a page about the results in DIR, of 'mpnet experiment run' or 'mpnet bench -o'.

    One HTML file that works without a network, and its pictures as PNG.
    """
    need_all(REPORT, "the report")
    from mpnet.experiment import frame  # noqa: PLC0415 - of an extra
    from mpnet.experiment.report import page  # noqa: PLC0415 - likewise

    read = frame.read(results)
    try:
        click.echo(page.write(read, output or results / "report"))
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


def _answer(talk: Console, path: Path) -> None:
    """Show what came of it; who lacks the libraries for that has the records all the same."""
    try:
        need_all(REPORT, "the answer")
        from mpnet.cli.answer import print_answer  # noqa: PLC0415 - of an extra

        print_answer(talk, path)
    except MpnetError as error:
        talk.print(f"no table: {error}", soft_wrap=True, markup=False)


def _runner(scheduler: str | None) -> Runner:
    if scheduler is None:
        return run_here
    from mpnet.experiment.remote import run_on  # noqa: PLC0415 - dask is an extra

    return lambda trials: run_on(scheduler, trials)
