"""Records as a table for statistics, and what the results are about."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mpnet.errors import MpnetError
from mpnet.experiment.factors import label, varied
from mpnet.experiment.record import FIGURES, Figure, Record
from mpnet.experiment.results import read_manifest, read_records

NUMERIC = ("workers", "queue-pairs", "flows", "ring-size", "frame-bytes", "segments", "poll-us", "gap-us", "mtu")
"""Factors whose levels are amounts, those that people ask for first in front."""
HOST = "host"


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
    """

    metric: str
    factors: list[str]
    frame: pd.DataFrame
    records: list[Record]

    @property
    def figure(self) -> Figure:
        """What the metric is."""
        return FIGURES[self.metric]

    @property
    def configurations(self) -> list[str]:
        """All there are, in order of their levels."""
        return list(dict.fromkeys(self.frame.sort_values(self.factors or ["order"])["configuration"]))


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


def families(records: Sequence[Record]) -> list[Family]:
    """Trials of throughput, in packets or of TCP, and trials of round trips, each where there are any."""
    found = []
    for metric in ("pps", "goodput_gbps", "rtt_p50_us"):
        own = [record for record in records if metric in record.figures]
        if own:
            found.append(_family(metric, own))
    return found


def _family(metric: str, records: list[Record]) -> Family:
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
        row |= {"doubtful": bool(record.anomalies)} | record.figures
        rows.append(row)
    frame = pd.DataFrame(rows)
    for name in factors:
        own = [level[name] for level in levels]
        # Not an amount either where the device's own default is one of the levels.
        if name not in NUMERIC or None in own:
            frame[name] = [label(level) for level in own]
    return Family(metric, factors, frame, records)
