"""Writes the dashboards' JSON: ``python -m mpnet.dashboards.generate``."""

from pathlib import Path

from mpnet.dashboards.guests import GUESTS
from mpnet.dashboards.overview import OVERVIEW
from mpnet.dashboards.queues import QUEUES
from mpnet.dashboards.workers import WORKERS

BOARDS = (OVERVIEW, QUEUES, WORKERS, GUESTS)
FOLDER = Path(__file__).parent / "grafana"


def generate(folder: Path = FOLDER) -> None:
    """Write one file a dashboard."""
    for board in BOARDS:
        (folder / f"{board.name}.json").write_text(board.json(), encoding="utf-8")


if __name__ == "__main__":
    generate()
