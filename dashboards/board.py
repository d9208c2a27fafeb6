"""A dashboard: its rows of panels, the variables that choose what they show, and links to the others."""

from dataclasses import dataclass

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from mpnet.dashboards.panel import SOURCE, Panel

_TAG = "mpnet"
_LABELS = {
    "instance": ("Host", "label_values(mpnet_device_up, instance)"),
    "device": ("Device", 'label_values(mpnet_device_up{instance=~"$instance"}, device)'),
    "queue": (
        "Queue",
        'label_values(mpnet_queue_rx_packets_total{instance=~"$instance",device=~"$device"}, queue)',
    ),
    "worker": ("Worker", 'label_values(mpnet_worker_up{instance=~"$instance",device=~"$device"}, worker)'),
}
"""Variables by the label they choose: what people read, and where Grafana finds the choices."""


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard.

    Attributes:
        name: of its file and in its address.
        title: what people read.
        description: for whom it is.
        variables: which of instance, device, queue and worker can be chosen.
        rows: from the top.
    """

    name: str
    title: str
    description: str
    variables: tuple[str, ...]
    rows: tuple[Row, ...]

    def json(self) -> str:
        """Grafana's document."""
        board = (
            dashboard.Dashboard(f"mpnet / {self.title}").uid(f"mpnet-{self.name}").description(self.description)
        )
        board.tags([_TAG]).readonly().refresh("10s").time("now-30m", "now").timezone("browser")
        board.tooltip(models.DashboardCursorSync.CROSSHAIR).link(_links())
        board.with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        for label in self.variables:
            board.with_variable(_variable(label))
        number = 0
        for row in self.rows:
            number += 1
            board.with_row(dashboard.Row(row.title).id(number))
            for panel in row.panels:
                number += 1
                board.with_panel(panel.build(number))
        return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def _links() -> dashboard.DashboardLink:
    """Each dashboard leads to the others, with what is chosen and the time."""
    link = dashboard.DashboardLink("mpnet").type(models.DashboardLinkType.DASHBOARDS).tags([_TAG])
    return link.include_vars(True).keep_time(True).as_dropdown(False)


def _variable(label: str) -> dashboard.QueryVariable:
    title, query = _LABELS[label]
    variable = dashboard.QueryVariable(label).label(title).datasource(SOURCE).query(query)
    variable.multi(True).include_all(True).all_value(".*").refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
    everything = models.VariableOption(text="All", value="$__all")
    return variable.sort(models.VariableSort.NUMERICAL_ASC).current(everything)
