"""What another level of a factor changed besides itself: what else could explain an effect.

Queue pairs share the flows of a device, so that more pairs have fewer flows each, and frames of fewer flows
coalesce better: what looks like scaling is coalescing. Such companions are looked for in what each trial counted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mpnet.experiment.analysis import Estimate, positive_estimate
from mpnet.experiment.factors import label
from mpnet.experiment.frame import FLOWS_A_PAIR, WORKERS_A_PROCESSOR, Family
from mpnet.experiment.report.text import number, percent

_SHARES = {"coalesced": "frames coalesced", "segmented": "frames segmented", "loss": "loss"}
_AMOUNTS = {
    FLOWS_A_PAIR: "flows a queue pair",
    WORKERS_A_PROCESSOR: "workers a processor",
    "burst": "packets a burst",
}
_SHARE_APART = 0.1
_TIMES_APART = 1.5
"""From where on a companion is said."""
_MEANT = {FLOWS_A_PAIR: ("flows", "flows-per-pair")}
"""Factors that are to change a companion: then it is no side effect."""


def companions(family: Family, factor: str, base: Any, level: Any) -> list[str]:
    """What else differs between trials with two levels of a factor, as "frames coalesced 4 % → 93 %"."""
    shown = family.frame[factor].map(label)
    ours, theirs = (family.frame[shown == label(one)] for one in (base, level))
    found = []
    for name, title in _SHARES.items():
        before, after = _mean(ours, name), _mean(theirs, name)
        if abs(after - before) > _SHARE_APART:
            found.append(f"{title} {percent(before)} → {percent(after)}")
    for name, title in _AMOUNTS.items():
        # Less than one, as half a worker for each processor, is as good as one.
        before, after = (max(_mean(own, name), 1.0) for own in (ours, theirs))
        if max(before, after) > _TIMES_APART * min(before, after) and factor not in _MEANT.get(name, ()):
            found.append(f"{title} {number(before)} → {number(after)}")
    return found


def _mean(group: pd.DataFrame, name: str) -> float:
    """Of a column; NaN, which compares as no difference, where there is none."""
    return float(group[name].mean()) if name in group else float("nan")


@dataclass(frozen=True, slots=True)
class Efficiency:
    """How near so many workers, or queue pairs, come to as many times the throughput of the fewest.

    Attributes:
        factor: "workers" or "queue-pairs".
        fewest: of them.
        level: how many.
        others: levels of the other factors.
        share: of perfect scaling, by block.
        estimate: of these.
        doubtful: of these, which are of trials with anomalies.
    """

    factor: str
    fewest: int
    level: int
    others: str
    share: list[float]
    estimate: Estimate
    doubtful: list[bool]

    @property
    def above(self) -> bool:
        """More than perfect: no device scales so, and something else has changed."""
        low = self.estimate.mean if np.isnan(self.estimate.low) else self.estimate.low
        return low > 1 and self.estimate.mean > 1 + _SHARE_APART


def efficiencies(family: Family) -> Iterator[Efficiency]:
    """Each trial against the one of its own block with the fewest; none where throughput was not measured."""
    if family.metric != "pps":
        return
    for factor in ("workers", "queue-pairs"):
        if factor not in family.factors or not pd.api.types.is_numeric_dtype(family.frame[factor]):
            continue
        rows = list(_relative(family, factor))
        for key in dict.fromkeys((each["others"], each["level"]) for each in rows):
            own = [each for each in rows if (each["others"], each["level"]) == key]
            shares = [each["share"] for each in own]
            yield Efficiency(
                factor=factor,
                fewest=own[0]["fewest"],
                level=key[1],
                others=key[0],
                share=shares,
                estimate=positive_estimate(shares),
                doubtful=[each["doubtful"] for each in own],
            )


def _relative(family: Family, factor: str) -> Iterator[dict[str, Any]]:
    """Each trial's share of perfect scaling, within its block and its other factors' levels."""
    others = [name for name in family.factors if name != factor]
    for _, group in family.in_order.groupby([*others, "replicate"], sort=False):
        base = group[group[factor] == group[factor].min()].iloc[0]
        if base[family.metric] <= 0 or group[factor].nunique() < 2:
            continue
        shown = " ".join(f"{name}={label(_plain(base[name]))}" for name in others)
        for _, trial in group.iterrows():
            perfect = base[family.metric] * trial[factor] / base[factor]
            yield {
                "fewest": int(base[factor]),
                "level": int(trial[factor]),
                "others": shown,
                "share": float(trial[family.metric] / perfect),
                "doubtful": bool(trial["doubtful"]),
            }


def _plain(level: Any) -> Any:
    return level.item() if hasattr(level, "item") else level


def cautions(family: Family) -> Iterator[str]:
    """Figures that do not mean what they seem to, in sentences."""
    above = [each for each in efficiencies(family) if each.above]
    for factor, level in dict.fromkeys((each.factor, each.level) for each in above):
        most = max(
            (each for each in above if (each.factor, each.level) == (factor, level)),
            key=lambda each: each.estimate.mean,
        )
        besides = companions(family, factor, most.fewest, level) or ["nothing that is counted"]
        where = f" with {most.others}" if most.others else ""
        yield (
            f"{level} {factor}{where} reach {percent(most.estimate.mean)} of {level / most.fewest:g} times the "
            f"throughput of {most.fewest}: nothing scales so. Besides {factor} changed: {'; '.join(besides)}."
        )
