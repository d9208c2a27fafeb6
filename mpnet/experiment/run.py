"""A run of a sweep: every trial that is not in the folder yet, each written down before the next."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from mpnet.experiment.plan import Trial, plan
from mpnet.experiment.record import Record
from mpnet.experiment.results import open_folder
from mpnet.experiment.sweep import Sweep

Runner: TypeAlias = Callable[[Iterable[Trial]], Iterator[Record]]
"""Runs trials, here or elsewhere; a record of each, in the order in which they come to an end."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        done: trials that are in the folder.
        total: trials that are to be.
        last: the record that came last; None before the first of this run.
        repaired: bytes of a line that was cut short and has been removed.
    """

    done: int
    total: int
    last: Record | None
    repaired: int


def run(sweep: Sweep, path: Path, runner: Runner) -> Iterator[Progress]:
    """Run what is missing in a folder; tells where it stands, first of all before anything is run.

    Trials that failed are tried again by the next run of the same folder.

    Raises:
        MpnetError: the folder is not this sweep's, or cannot be written, or nothing can be run here.
    """
    trials = plan(sweep)
    with open_folder(path, sweep, len(trials)) as folder:
        missing = [trial for trial in trials if trial.id not in folder.done]
        ended = len(trials) - len(missing)
        yield Progress(ended, len(trials), None, folder.repaired)
        if not missing:
            return
        for record in runner(missing):
            folder.append(record)
            ended += 1
            yield Progress(ended, len(trials), record, folder.repaired)
