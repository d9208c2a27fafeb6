"""How ``mpnet experiment run`` and ``mpnet bench`` show a run: what is done, what came of it, time left."""

import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from mpnet.errors import MpnetError
from mpnet.experiment.extras import need
from mpnet.experiment.factors import label, plain, varied
from mpnet.experiment.record import FIGURES, Record
from mpnet.experiment.results import read_records
from mpnet.experiment.run import Runner
from mpnet.experiment.run import run as run_sweep
from mpnet.experiment.sweep import Sweep


def follow(talk: Console, sweep: Sweep, path: Path, runner: Runner) -> Iterator[Record]:
    """Run what is missing of a sweep in a folder, and show it; every record as it comes."""
    factors = varied([plain(each) for each in sweep.combinations])
    columns = BarColumn(), TextColumn("{task.completed}/{task.total}"), _Left(), TextColumn("{task.description}")
    with Progress(*columns, console=talk, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        for progress in run_sweep(sweep, path, runner):
            if progress.last is None:
                _begin(talk, progress.done, progress.total, progress.repaired)
                bar.update(task, completed=progress.done, total=progress.total, begun=progress.done)
                continue
            said = _said(progress.last, factors)
            bar.update(task, completed=progress.done, description=said)
            if not talk.is_terminal:
                talk.print(f"{progress.done}/{progress.total} {said}", soft_wrap=True)
            yield progress.last


def write_columns(talk: Console, path: Path) -> None:
    """Write the tables of columns; who lacks the library has the records all the same."""
    try:
        need("pyarrow", "writing Parquet")
    except MpnetError as error:
        talk.print(f"no Parquet: {error}", soft_wrap=True, markup=False)
        return
    from mpnet.experiment import parquet  # noqa: PLC0415 - of an extra

    parquet.write(path, read_records(path))


def _begin(talk: Console, done: int, total: int, repaired: int) -> None:
    if repaired:
        talk.print(f"removed {repaired} bytes of a record that was cut short; its trial is run again")
    talk.print(f"{total} trials, {done} of them done" if done else f"{total} trials", soft_wrap=True)


def _said(record: Record, factors: list[str]) -> str:
    """A trial and what came of it, on one line."""
    what = " ".join(f"{name}={label(record.factors[name])}" for name in factors) or f"trial {record.trial}"
    if record.error:
        return f"{what}: failed"
    name = next(name for name in ("pps", "rtt_p50_us", *record.figures) if name in record.figures)
    value, figure = record.figures[name], FIGURES[name]
    shown = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return f"{what}: {figure.title} {shown} {figure.unit}" + _doubt(record)


def _doubt(record: Record) -> str:
    return f" (doubtful: {'; '.join(record.anomalies)})" if record.anomalies else ""


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
