"""Writes the report of some results: ``report.html``, whole in itself, and its pictures."""

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

import mpnet
from mpnet.experiment import analysis
from mpnet.experiment.frame import Family, Results
from mpnet.experiment.record import Record
from mpnet.experiment.report import peers
from mpnet.experiment.report.plots import Picture, pictures
from mpnet.experiment.report.style import FONT
from mpnet.experiment.report.text import interval, number, percent
from mpnet.experiment.side_effects import cautions, companions

PAGE = "report.html"
_DPI = 150


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the page.

    Attributes:
        title: above it; may be empty.
        text: what is in it.
        heads: of the columns.
        rows: cells, as they are shown.
        numbers: heads of the columns that are set to the right.
    """

    title: str
    text: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Shown:
    """A picture as the page has it."""

    title: str
    text: str
    svg: Markup


@dataclass(frozen=True, slots=True)
class _Section:
    """A part of the page."""

    title: str
    tables: list[Table]
    pictures: list[_Shown] = field(default_factory=list)


def write(results: Results, target: Path) -> Path:
    """Write page and pictures into a folder; the page.

    Raises:
        OSError: it cannot be written.
    """
    target.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(FONT):
        sections = [*_experiment(results, target), *_bench(results, target)]
    around = [*_environment(results.records), *_anomalies(results.records)]
    sections.append(_Section("Environment", around))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mpnet.experiment.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("page.html.j2").render(
        name=results.name,
        question=results.question,
        summary=_summary(results),
        warnings=_warnings(results),
        sections=sections,
        text=results.text,
        version=mpnet.__version__,
    )
    path = target / PAGE
    path.write_text(page, encoding="utf-8")
    return path


def _experiment(results: Results, target: Path) -> list[_Section]:
    sections = []
    for family in results.families():
        title = family.figure.title.capitalize()
        tables = [_configurations(family), *_effects(family)]
        sections.append(_Section(title, tables, [_show(each, target) for each in pictures(family)]))
    return sections


def _bench(results: Results, target: Path) -> list[_Section]:
    if not results.turns:
        return []
    heads = ("case", "figure", "system", "mean", "unit", "mpnet is … times better", "rounds")
    table = Table("", "Ratios with their 95 % intervals, over the rounds' own ratios.", heads,
                  peers.rows(results.turns), ("mean", "mpnet is … times better", "rounds"))  # fmt: skip
    picture = peers.picture(results.turns)
    return [_Section("mpnet against its peers", [table], [_show(picture, target)] if picture else [])]


def _show(picture: Picture, target: Path) -> _Shown:
    """Save a picture as a file; give it as the page has it."""
    picture.figure.savefig(target / f"{picture.name}.png", dpi=_DPI)
    return _Shown(picture.title, picture.text, Markup(_svg(picture.figure, picture.name)))  # noqa: S704 - ours


def _svg(figure: Figure, name: str) -> str:
    """Without what only a file of its own needs; ids are the picture's, as all stand on one page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    whole = text.getvalue()
    whole = whole[whole.index("<svg") :]
    return re.sub(r'(\bid="|"#|\(#)', rf"\g<1>{name}-", whole)


def _configurations(family: Family) -> Table:
    figure = family.figure
    mean = f"mean ({figure.unit})"
    heads = [
        "configuration",
        "trials",
        mean,
        "95 % interval",
        "range",
        "ns a packet",
        "loss",
        "coalesced",
        "segmented",
        "",
    ]
    rows = []
    for row in analysis.table(family):
        marks = ["replicates disagree"] if row.disagree else []
        marks += [f"{row.doubtful} doubtful"] if row.doubtful else []
        cost = number(row.cost.mean) if row.cost and family.metric == "pps" else ""
        shares = ["" if share is None else percent(share) for share in (row.loss, row.coalesced, row.segmented)]
        span = f"{number(row.lowest)} to {number(row.highest)}"
        cells = [
            row.configuration,
            str(row.count),
            number(row.value.mean),
            interval(row.value),
            span,
            cost,
            *shares,
        ]
        rows.append([*cells, ", ".join(marks)])
    kept = [place for place in range(len(heads)) if any(row[place] for row in rows)]
    shown = [[row[place] for place in kept] for row in rows]
    return Table("", "", [heads[place] for place in kept], shown, heads[1:-1])


def _effects(family: Family) -> Iterable[Table]:
    found = analysis.effects(family)
    if found is None:
        return
    better = "less" if family.figure.lower else "more"
    yield Table(
        "Effects",
        f"What another level of one factor changes, all others alike; {better} is better. An interval that spans "
        "0 % shows no difference. What else changed with a level may be the cause.",
        ("factor", "from", "to", "change", "95 % interval", "what else changed"),
        [
            (each.factor, each.base, each.level, percent(each.ratio.mean - 1, sign=True),
             f"{percent(each.ratio.low - 1, sign=True)} to {percent(each.ratio.high - 1, sign=True)}",
             "; ".join(companions(family, each.factor, each.base, each.level)))
            for each in found.levels
        ],
        ("change", "95 % interval"),
    )  # fmt: skip
    yield Table(
        "Analysis of variance",
        "Of the figure's logarithm, type II. × is an interaction: one factor's effect depends on another.",
        ("source", "degrees of freedom", "share of the variance", "F", "p"),
        [
            (each.name, str(each.freedom), percent(each.share), "" if each.f is None else number(each.f),
             "" if each.p is None else "< 0.001" if each.p < 0.001 else f"{each.p:.3f}")
            for each in found.variance
        ],
        ("degrees of freedom", "share of the variance", "F", "p"),
    )  # fmt: skip


def _environment(records: Sequence[Record]) -> Iterable[Table]:
    hosts = {record.host: record for record in records if record.machine is not None}
    rows = []
    for host, record in hosts.items():
        machine = record.machine
        assert machine is not None
        own = [each.conditions for each in records if each.host == host and each.conditions is not None]
        versions: dict[str, str] = {}
        for each in records:
            if each.host == host and each.machine is not None:
                versions |= each.machine.versions
        waits = [each.wait for each in own if each.wait is not None]
        rows += [
            ("host", host),
            ("processors", f"{machine.cpus} × {machine.cpu}, {machine.memory_bytes / 2**30:.0f} GiB of memory"),
            ("kernel", machine.kernel),
            ("frequency", f"{machine.governor or 'no governor'}, {max(each.mhz for each in own):,.0f} MHz"),
            ("driver on processors", ", ".join(map(str, dict.fromkeys(machine.driver_cpus)))),
            ("device on processors", ", ".join(map(str, dict.fromkeys(machine.device_cpus)))),
            ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
            ("commit", machine.commit or "none"),
            ("load before trials", f"{min(each.load_average for each in own):.1f} to "
             f"{max(each.load_average for each in own):.1f}"),
            ("stolen by the hypervisor, at most", percent(max(each.steal for each in own))),
            ("other work, at most", percent(max(each.others for each in own))),
            ("driver waited, at most", percent(max(waits)) if waits else "not told"),
        ]  # fmt: skip
    if rows:
        yield Table("", "", ("what", ""), rows)


def _anomalies(records: Sequence[Record]) -> Iterable[Table]:
    rows = [
        (record.trial, str(record.order), "; ".join(record.anomalies)) for record in records if record.anomalies
    ]
    if rows:
        yield Table("Trials with anomalies", "Hollow points in the pictures.", ("trial", "place", "what"), rows)


def _summary(results: Results) -> str:
    blocks = len({record.replicate for record in results.records})
    if not results.trials:
        return f"{blocks} rounds; every system had its turn in each."
    configurations = sum(len(family.configurations) for family in results.families())
    seconds = max(record.seconds for record in results.records)
    return (
        f"{len(results.records)} trials: {configurations} configurations in {blocks} blocks, each in random "
        f"order; {seconds:.3g} s measured in each."
    )


def _warnings(results: Results) -> list[str]:
    """What a reader must know before the figures."""
    records, said = results.records, []
    if results.failed:
        said.append(f"{len(results.failed)} trials failed; the first: {results.failed[0].error}")
    doubtful = [record for record in records if record.anomalies]
    if doubtful:
        said.append(f"In {len(doubtful)} of {len(records)} trials something was odd: see the end of the page.")
    apart = [row for family in results.families() for row in analysis.table(family) if row.disagree]
    if apart:
        said.append(
            f"In {len(apart)} configurations the replicates disagree by more than {analysis.DISAGREE:.0%}: "
            "look at the points, not at the mean."
        )
    said += [caution for family in results.families() for caution in cautions(family)]
    if len({record.replicate for record in records}) < 3:
        said.append("With fewer than 3 replicates intervals say little.")
    return said
