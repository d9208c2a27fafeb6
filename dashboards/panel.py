"""One panel of a dashboard: what it asks Prometheus and how it shows the answer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from grafana_foundation_sdk.builders import common, dashboard, heatmap, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = options.DataSourceRef(type_val="prometheus", uid="${datasource}")
DEVICE = 'instance=~"$instance",device=~"$device"'
"""Matchers of what is a device's; each variable stands for a set."""
QUEUE = f'{DEVICE},queue=~"$queue"'
WORKER = f'{DEVICE},worker=~"$worker"'
RATE = "[$__rate_interval]"

Kind = Literal["lines", "number", "table", "heat", "timeline"]
_AnyPanel = timeseries.Panel | stat.Panel | table.Panel | heatmap.Panel | statetimeline.Panel
_GRAFANA_COLUMNS = 24


@dataclass(frozen=True, slots=True)
class Query:
    """One expression.

    Attributes:
        expr: PromQL, with Grafana's variables.
        legend: what a line is called, with labels in double braces; in a table, the column.
    """

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        title: what it shows.
        description: what to read from it.
        queries: what it asks, one thing or several.
        unit: Grafana's name of the unit, as "pps"; "short" for plain numbers.
        kind: how it shows the answer.
        width: in columns, of which a row has 24.
        stacked: lines stand on each other.
        red_above: from which value on a number is bad.
        red_below: below which.
    """

    title: str
    description: str
    queries: Query | tuple[Query, ...]
    unit: str = "short"
    kind: Kind = "lines"
    width: int = _GRAFANA_COLUMNS // 2
    stacked: bool = False
    red_above: float | None = None
    red_below: float | None = None

    def build(self, number: int) -> Builder[models.Panel]:
        """Make Grafana's panel, the ``number``-th of its dashboard."""
        makers: dict[Kind, Callable[[], _AnyPanel]] = {
            "lines": self._lines,
            "number": self._number,
            "table": self._table,
            "heat": self._heat,
            "timeline": self._timeline,
        }
        panel = makers[self.kind]()
        panel.title(self.title).description(self.description).datasource(SOURCE).id(number)
        panel.span(self.width).height(4 if self.kind == "number" else 8)
        for letter, query in self._lettered():
            panel.with_target(self._target(query).ref_id(letter))
        return panel

    def _lettered(self) -> list[tuple[str, Query]]:
        """The queries with Grafana's names of them."""
        queries = (self.queries,) if isinstance(self.queries, Query) else self.queries
        return list(zip("ABCDEFGHIJ", queries, strict=False))

    def _target(self, query: Query) -> Dataquery:
        target = Dataquery().expr(query.expr).datasource(SOURCE)
        if self.kind == "table":
            return target.instant().format(PromQueryFormat.TABLE)
        if self.kind == "number":
            return target.instant().legend_format(query.legend)
        if self.kind == "heat":
            target.format(PromQueryFormat.HEATMAP)
        return target.range().legend_format(query.legend)

    def _lines(self) -> timeseries.Panel:
        mode = options.StackingMode.NORMAL if self.stacked else options.StackingMode.NONE
        legend = common.VizLegendOptions().display_mode(options.LegendDisplayMode.TABLE)
        legend.placement(options.LegendPlacement.BOTTOM).show_legend(True).calcs(["lastNotNull", "max"])
        tooltip = common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI)
        panel = timeseries.Panel().unit(self.unit).min(0).legend(legend)
        panel.tooltip(tooltip.sort(options.SortOrder.DESCENDING))
        return panel.stacking(common.StackingConfig().mode(mode)).fill_opacity(20 if self.stacked else 6)

    def _number(self) -> stat.Panel:
        reduce = common.ReduceDataOptions().calcs(["lastNotNull"])
        panel = stat.Panel().unit(self.unit).reduce_options(reduce).thresholds(self._thresholds())
        return panel.color_mode(options.BigValueColorMode.VALUE).graph_mode(options.BigValueGraphMode.NONE)

    def _thresholds(self) -> Builder[models.ThresholdsConfig]:
        steps = [models.Threshold(value=None, color="green")]
        if self.red_above is not None:
            steps.append(models.Threshold(value=self.red_above, color="red"))
        if self.red_below is not None:
            steps = [
                models.Threshold(value=None, color="red"),
                models.Threshold(value=self.red_below, color="green"),
            ]
        return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)

    def _table(self) -> table.Panel:
        lettered = self._lettered()
        # Grafana numbers the columns only where there are several.
        columns = ["Value"] if len(lettered) == 1 else [f"Value #{letter}" for letter, _ in lettered]
        names = dict(zip(columns, (query.legend for _, query in lettered), strict=True))
        panel = table.Panel().unit(self.unit)
        panel.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
        hidden = dict.fromkeys(("Time", "job", "__name__"), True)
        return panel.with_transformation(
            models.DataTransformerConfig(
                id_val="organize", options={"excludeByName": hidden, "renameByName": names}
            )
        )

    def _heat(self) -> heatmap.Panel:
        return heatmap.Panel().y_axis(heatmap.YAxisConfig().unit(self.unit)).show_legend()

    def _timeline(self) -> statetimeline.Panel:
        return statetimeline.Panel().merge_values(True).thresholds(self._thresholds())
