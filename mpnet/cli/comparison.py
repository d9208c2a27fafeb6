"""How a comparison of two runs is shown."""

from mpnet.cli.sheet import Column, Sheet, console
from mpnet.experiment.compare import Change, Comparison
from mpnet.experiment.record import FIGURES
from mpnet.experiment.report.text import number, percent

_COLOURS = {"better": "green", "worse": "red"}


def print_comparison(found: Comparison) -> None:
    """Print it as tables on standard output."""
    screen = console()
    for title, differences in (("changed", found.factors), ("also different", found.environment)):
        for name, (ours, theirs) in differences.items():
            screen.print(f"{title}: {name}: {ours} → {theirs}", soft_wrap=True, markup=False)
    sheet = Sheet(
        *(Column(name, key=True, wrap=True) for name in ("configuration", "figure")),
        *(Column(name, right=True) for name in ("before", "after", "change", "95 % interval", "trials")),
        Column("", wrap=True),
    )
    before = ""
    for change in found.changes:
        sheet.add("" if change.configuration == before else change.configuration, *_cells(change))
        before = change.configuration
    screen.print(sheet)
    for name, alone in zip(("first", "second"), found.only, strict=True):
        if alone:
            screen.print(f"only in the {name}: {'; '.join(alone)}", soft_wrap=True, markup=False)


def _cells(change: Change) -> list[str]:
    figure = FIGURES[change.figure]
    interval = "–"  # noqa: RUF001 - a dash
    if change.low is not None and change.high is not None:
        interval = f"{percent(change.low - 1, sign=True)} to {percent(change.high - 1, sign=True)}"
    colour = _COLOURS.get(change.verdict, "default")
    return [
        f"{figure.title} ({figure.unit})",
        number(change.before),
        number(change.after),
        percent(change.ratio - 1, sign=True),
        interval,
        f"{change.trials[0]}, {change.trials[1]}",
        f"[{colour}]{change.verdict}[/]",
    ]
