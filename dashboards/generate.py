"""Writes the dashboards' JSON, or rules with other runbooks: ``python -m mpnet.dashboards.generate``."""

from pathlib import Path

import click

from mpnet.dashboards.guests import GUESTS
from mpnet.dashboards.overview import OVERVIEW
from mpnet.dashboards.queues import QUEUES
from mpnet.dashboards.workers import WORKERS

BOARDS = (OVERVIEW, QUEUES, WORKERS, GUESTS)
FOLDER = Path(__file__).parent / "grafana"
RULES = Path(__file__).parent / "rules/mpnet.yml"
RUNBOOKS = "docs/runbooks.md"
"""Where the alerts of ``RULES`` point to."""


def generate(folder: Path = FOLDER) -> None:
    """Write one file a dashboard."""
    for board in BOARDS:
        (folder / f"{board.name}.json").write_text(board.json(), encoding="utf-8")


def rules(runbooks: str) -> str:
    """Give Prometheus' rules with alerts that point to runbooks elsewhere.

    Args:
        runbooks: URL of ``docs/runbooks.md`` as it is published for those who are on call.
    """
    return RULES.read_text(encoding="utf-8").replace(f"runbook_url: {RUNBOOKS}#", f"runbook_url: {runbooks}#")


@click.command()
@click.option("--runbooks", metavar="URL", help="Print the rules with alerts that point to runbooks here.")
def main(runbooks: str | None) -> None:
    """Write the dashboards, or print the rules with other runbooks."""
    if runbooks:
        click.echo(rules(runbooks), nl=False)
    else:
        generate()


if __name__ == "__main__":
    main()
