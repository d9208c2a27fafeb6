"""Records as a table for statistics, and what the results are about."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mpnet.errors import MpnetError
from mpnet.experiment.factors import label, varied
from mpnet.experiment.record import FIGURES, Figure, Record
from mpnet.experiment.results import read_manifest, read_records

NUMERIC = (
    "workers", "queue-pairs", "flows", "flows-per-pair", "ring-size", "frame-bytes", "segments", "poll-us",
    "gap-us", "mtu",
)  # fmt: skip
"""Factors whose levels are amounts, those that people ask for first in front."""
HOST = "host"
FLOWS_A_PAIR, WORKERS_A_PROCESSOR = "flows_a_pair", "workers_a_processor"
"""Columns beside the figures."""


@dataclass(frozen=True, slots=True)
class Results:
    """What a report is about.

    Attributes:
        name: of the experiment.
        question: it shall answer.
        records: those with figures.
        failed: those without.
        text: the sweep.
    """

    name: str
    question: str
    records: list[Record]
    failed: list[Record]
    text: str

    def families(self) -> list["Family"]:
        """Its trials, those of the bench apart, by what was measured."""
        return families(self.trials, _written(self.text))

    @property
    def trials(self) -> list[Record]:
        """Those of traffic that the factors describe."""
        return [record for record in self.records if not record.factors.get("case")]

    @property
    def turns(self) -> list[Record]:
        """Those of the bench: cases on systems, compared with mpnet round by round."""
        return [record for record in self.records if record.factors.get("case")]


@dataclass(frozen=True, slots=True)
class Family:
    """Trials that have a figure in common, and are told apart by the same factors.

    Attributes:
        metric: name of the figure.
        factors: those that vary.
        frame: a row a trial: each varied factor, "configuration", the figures, "replicate", "order", "doubtful".
        records: in the order of the rows.
        levels: of each factor, as the rows have them and in the order of the sweep: the first is the baseline.
    """

    metric: str
    factors: list[str]
    frame: pd.DataFrame
    records: list[Record]
    levels: dict[str, list[Any]]

    @property
    def figure(self) -> Figure:
        """What the metric is."""
        return FIGURES[self.metric]

    @property
    def configurations(self) -> list[str]:
        """All there are, in order of their levels."""
        return list(dict.fromkeys(self.in_order["configuration"]))

    @property
    def in_order(self) -> pd.DataFrame:
        """The rows in order of their levels."""

        def places(column: "pd.Series[Any]") -> "pd.Series[Any]":
            known = {level: place for place, level in enumerate(self.levels.get(str(column.name), ()))}
            return column.map(known) if known else column

        return self.frame.sort_values(self.factors or ["order"], key=places)


def read(path: Path) -> Results:
    """Results of a folder.

    Raises:
        MpnetError: it is none, or there is nothing in it yet.
    """
    manifest, records = read_manifest(path), read_records(path)
    good = [record for record in records if not record.error]
    bad = [record for record in records if record.error]
    if not good:
        reason = f"; the first says: {bad[0].error}" if bad else ""
        raise MpnetError(f"no trial in {path} has figures{reason}", "'mpnet experiment run' adds them")
    return Results(manifest.name, manifest.question, good, bad, (path / "sweep.toml").read_text(encoding="utf-8"))


def _written(text: str) -> dict[str, list[str]]:
    """Labels of each factor's levels in the order in which a sweep has them."""
    document = tomllib.loads(text)
    found = {name: [label(level) for level in levels] for name, levels in document.get("factors", {}).items()}
    for trial in document.get("trial", []):
        for name, level in trial.items():
            found.setdefault(name, []).append(label(level))
    return found


def families(records: Sequence[Record], written: Mapping[str, Sequence[str]]) -> list[Family]:
    """Trials of throughput, in packets or of TCP, and trials of round trips, each where there are any.

    Args:
        records: those with figures.
        written: labels of factors' levels in the order of the sweep; those not in it come as the trials do.
    """
    found = []
    for metric in ("pps", "goodput_gbps", "rtt_p50_us"):
        own = [record for record in records if metric in record.figures]
        if own:
            found.append(_family(metric, own, written))
    return found


def _family(metric: str, records: list[Record], written: Mapping[str, Sequence[str]]) -> Family:
    levels = [dict(record.factors) | {HOST: record.host} for record in records]
    # 0 is one a queue pair: an amount beside other amounts, else not a factor of its own.
    if len({level.get("workers") for level in levels}) > 1:
        for level in levels:
            level["workers"] = level["workers"] or level["queue-pairs"]
    factors = varied(levels)
    rows = []
    for record, level in zip(records, levels, strict=True):
        row: dict[str, Any] = {name: level[name] for name in factors}
        shown = " ".join(f"{name}={label(level[name])}" for name in factors)
        row |= {"configuration": shown or "all trials", "replicate": record.replicate, "order": record.order}
        row |= {"doubtful": bool(record.anomalies)} | record.figures | _beside(record, level)
        rows.append(row)
    frame = pd.DataFrame(rows)
    for name in factors:
        own = [level[name] for level in levels]
        # Not an amount either where the device's own default is one of the levels.
        if name not in NUMERIC or None in own:
            frame[name] = [label(level) for level in own]
    ordered = {name: _ordered(frame[name], written.get(name, ())) for name in factors}
    return Family(metric, factors, frame, records, ordered)


def _beside(record: Record, level: Mapping[str, Any]) -> dict[str, float]:
    """What a factor may change besides itself: flows of a queue pair, workers of a processor."""
    pairs = level.get("queue-pairs") or 1
    found = {FLOWS_A_PAIR: level.get("flows-per-pair") or (level.get("flows") or 0) / pairs}
    if record.machine is not None and record.workers:
        found[WORKERS_A_PROCESSOR] = len(record.workers) / max(1, len(record.machine.device_cpus))
    return found


def _ordered(column: "pd.Series[Any]", written: Sequence[str]) -> list[Any]:
    """Levels of a column, those of the sweep first and in its order."""
    there = [level.item() if hasattr(level, "item") else level for level in column.unique()]
    places = {name: place for place, name in enumerate(written)}
    return sorted(there, key=lambda level: places.get(label(level), len(places)))
