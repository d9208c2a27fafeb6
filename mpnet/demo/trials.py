"""The last act: a small experiment, and a report that stays."""

import shutil
from pathlib import Path

from mpnet.demo.summary import Experiment, ExperimentRow
from mpnet.demo.talk import Talk
from mpnet.errors import MpnetError
from mpnet.experiment import templates
from mpnet.experiment.extras import REPORT, need_all
from mpnet.experiment.local import run_here
from mpnet.experiment.run import run
from mpnet.experiment.sweep import parse
from mpnet.guest.cache import cache_directory

_TEMPLATE = "demo"
_FOLDER = "demo-experiment"


def show(talk: Talk) -> Experiment:
    """Run a few short trials and write a report, in place of the last demo's; failures become a reason."""
    try:
        need_all(REPORT, "the report")
    except MpnetError as error:
        return Experiment(skipped=str(error))
    from mpnet.experiment import frame  # noqa: PLC0415 - of an extra
    from mpnet.experiment.analysis import table  # noqa: PLC0415 - likewise
    from mpnet.experiment.report import page  # noqa: PLC0415 - likewise

    path = cache_directory() / _FOLDER
    sweep = parse(templates.text(_TEMPLATE), Path(f"{_TEMPLATE}.toml"))
    talk.title(f"Experiment: {sweep.design.question}")
    shutil.rmtree(path, ignore_errors=True)
    with talk.waiting("running a few short trials in random order"):
        for progress in run(sweep, path, run_here):
            if progress.last is not None and progress.last.error:
                raise MpnetError(f"a trial failed: {progress.last.error}")
    talk.done(f"{progress.total} trials of {sweep.design.seconds:g} s each")
    with talk.waiting("writing the report"):
        results = frame.read(path)
        report = page.write(results, path / "report")
    talk.done(f"the report: {report}")
    rows = [
        ExperimentRow(
            configuration=row.configuration,
            packets_per_second=row.value.mean,
            low=row.value.low,
            high=row.value.high,
            cpu_ns_per_packet=row.cost.mean if row.cost else None,
        )
        for family in results.families()
        for row in table(family)
    ]
    return Experiment(folder=str(path), report=str(report), rows=rows)
