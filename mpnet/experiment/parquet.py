"""Results as tables of columns, for whatever reads Parquet."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mpnet.experiment.record import Record

TRIALS, SAMPLES = "trials.parquet", "samples.parquet"


def write(path: Path, records: Sequence[Record]) -> None:
    """Write both tables into a folder of results."""
    _write(path / TRIALS, [_trial(record) for record in records])
    _write(path / SAMPLES, [row for record in records for row in _samples(record)])


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    # Columns of all rows, not of the first alone: a failed trial has no figures.
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    draft = path.with_name(f".{path.name}")
    pq.write_table(pa.table(columns), draft)
    draft.replace(path)


def _trial(record: Record) -> dict[str, Any]:
    """One trial as a row: factors, figures and conditions by names with a prefix."""
    row: dict[str, Any] = {
        "trial": record.trial,
        "order": record.order,
        "replicate": record.replicate,
        "host": record.host,
        "started": record.started,
        "seconds": record.seconds,
        "error": record.error,
        "anomalies": record.anomalies,
    }
    row |= {f"factor.{name}": level for name, level in record.factors.items()}
    row |= {f"figure.{name}": float(value) for name, value in record.figures.items()}
    if record.conditions is not None:
        fields = record.conditions.__struct_fields__
        values = {name: getattr(record.conditions, name) for name in fields}
        row |= {f"condition.{name}": None if each is None else float(each) for name, each in values.items()}
    if record.machine is not None:
        row |= {f"machine.{name}": getattr(record.machine, name) for name in ("kernel", "cpu", "cpus", "commit")}
    return row


def _samples(record: Record) -> Iterator[dict[str, Any]]:
    """A row for each time and each queue pair or worker."""
    if record.series is None:
        return
    for kind, counters in (("queue", record.series.queues), ("worker", record.series.workers)):
        many = len(next(iter(counters.values()), []))
        for number in range(many):
            for place, seconds in enumerate(record.series.seconds):
                values = {
                    name: float(series[number][place])
                    for name, series in counters.items()
                    if place < len(series[number])
                }
                yield {"trial": record.trial, "seconds": seconds, "of": kind, "number": number} | values
