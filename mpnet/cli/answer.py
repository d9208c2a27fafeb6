"""The answer of an experiment on the screen: configurations, effects, and what to read with care."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from mpnet.cli.sheet import Column, Sheet
from mpnet.experiment.analysis import Effect, effects, ratio, table
from mpnet.experiment.frame import Family, Results, read
from mpnet.experiment.report.text import interval, number, percent
from mpnet.experiment.side_effects import cautions, companions

_NUMBER = re.compile(r"\d+")


def print_answer(talk: Console, path: Path) -> None:
    """Print what the results in a folder come to.

    Raises:
        MpnetError: there are none.
    """
    results = read(path)
    for family in results.families():
        _print_family(talk, family)
    for said in _warnings(results):
        talk.print(f"[yellow]read with care[/]: {said}", soft_wrap=True)


def _print_family(talk: Console, family: Family) -> None:
    figure = family.figure
    heads = (f"{figure.title}, {figure.unit}", "95 % interval", "change")
    shown = Sheet(
        Column("configuration", key=True, wrap=True), *(Column(head, right=True, wrap=True) for head in heads)
    )
    rows = table(family)
    values = {name: list(group) for name, group in family.frame.groupby("configuration")[family.metric]}
    for row in rows:
        change = "" if row is rows[0] else _change(values[rows[0].configuration], values[row.configuration])
        shown.add(row.configuration, number(row.value.mean), interval(row.value), change)
    talk.print(shown)
    found = effects(family)
    for effect in found.levels if found else ():
        talk.print(_effect(family, effect), soft_wrap=True, markup=False)


def _change(ours: Sequence[float], theirs: Sequence[float]) -> str:
    known = min(*ours, *theirs) > 0
    return percent(ratio(ours, theirs).mean - 1, sign=True) if known else "–"  # noqa: RUF001 - a dash


def _effect(family: Family, effect: Effect) -> str:
    """A sentence, as "ring: split → packed: +20 % (+18 % to +22 %)"."""
    change, low, high = (percent(each - 1, sign=True) for each in (
        effect.ratio.mean, effect.ratio.low, effect.ratio.high,
    ))  # fmt: skip
    besides = "; ".join(companions(family, effect.factor, effect.base, effect.level))
    return f"{effect.factor}: {effect.base} → {effect.level}: {change} ({low} to {high})" + (
        f", with {besides}" if besides else ""
    )


def _warnings(results: Results) -> Iterator[str]:
    doubtful = [record for record in results.records if record.anomalies]
    if doubtful:
        kinds: dict[str, list[str]] = {}
        for reason in (reason for record in doubtful for reason in record.anomalies):
            kinds.setdefault(_NUMBER.sub("", reason), []).append(reason)
        told = "; ".join(f"{reasons[0]} ({len(reasons)} ×)" for reasons in kinds.values())  # noqa: RUF001 - times
        yield f"{len(doubtful)} of {len(results.records)} trials are doubtful: {told}"
    for family in results.families():
        yield from cautions(family)
