"""Statistics of trials: intervals, effects and comparisons. The arithmetic is scipy's and statsmodels'."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from mpnet.experiment.factors import label
from mpnet.experiment.frame import Family

CONFIDENCE = 0.95
DISAGREE = 0.10
"""Replicates disagree where their standard deviation is above this share of their mean."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and where it lies.

    Attributes:
        mean: of the values.
        low: end of the interval of confidence; NaN for a single value.
        high: its other end.
    """

    mean: float
    low: float
    high: float


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and its interval by Student's t, which is wide where there are few values."""
    numbers = np.asarray(values, float)
    mean = float(numbers.mean())
    if len(numbers) < 2:
        return Estimate(mean, float("nan"), float("nan"))
    spread = float(stats.sem(numbers))
    if spread == 0:
        return Estimate(mean, mean, mean)
    low, high = stats.t.interval(CONFIDENCE, len(numbers) - 1, loc=mean, scale=spread)
    return Estimate(mean, float(low), float(high))


def positive_estimate(values: Sequence[float]) -> Estimate:
    """Geometric mean and its interval, of rates, times and ratios: it never reaches below zero.

    Where a value is zero there are no logarithms: mean and interval are then plain, cut off at zero.
    """
    numbers = np.asarray(values, float)
    if (numbers <= 0).any():
        found = estimate(values)
        return Estimate(found.mean, max(0.0, found.low), found.high) if found.low < 0 else found
    found = estimate(np.log(numbers).tolist())
    return Estimate(*(float(np.exp(value)) for value in (found.mean, found.low, found.high)))


@dataclass(frozen=True, slots=True)
class Row:
    """One configuration's figures.

    Attributes:
        configuration: its levels.
        count: replicates.
        value: of the metric.
        lowest: replicate.
        highest: replicate.
        disagree: the replicates do.
        doubtful: replicates with anomalies.
        cost: processor time a packet in ns; None where it is not known.
        loss: mean share; None where it is not known.
        coalesced: mean share of the guest's frames that were written to the TAP together; None where not known.
        segmented: mean share of the guest's frames that the device cut; likewise.
    """

    configuration: str
    count: int
    value: Estimate
    lowest: float
    highest: float
    disagree: bool
    doubtful: int
    cost: Estimate | None
    loss: float | None
    coalesced: float | None
    segmented: float | None


def table(family: Family) -> list[Row]:
    """A row for each configuration, in order of the levels."""
    rows = []
    groups = dict(iter(family.frame.groupby("configuration")))
    for name in family.configurations:
        group = groups[name]
        values = group[family.metric]
        deviation = float(values.std(ddof=1) / values.mean()) if len(values) > 1 else 0.0
        rows.append(
            Row(
                name,
                len(values),
                positive_estimate(values.tolist()),
                float(values.min()),
                float(values.max()),
                deviation > DISAGREE,
                int(group["doubtful"].sum()),
                positive_estimate(_costs(group)) if _has(group, "cpu_ns_per_packet") else None,
                *(_share(group, name) for name in ("loss", "coalesced", "segmented")),
            )
        )
    return rows


def _costs(group: pd.DataFrame) -> list[float]:
    return [float(value) for value in group["cpu_ns_per_packet"].dropna()]


def _share(group: pd.DataFrame, name: str) -> float | None:
    return float(group[name].mean()) if _has(group, name) else None


def _has(group: pd.DataFrame, name: str) -> bool:
    return name in group and bool(group[name].notna().any())


@dataclass(frozen=True, slots=True)
class Effect:
    """What changing one factor's level does, all other factors alike.

    Attributes:
        factor: which.
        base: its first level in the sweep.
        level: another one.
        ratio: of the figure's geometric means, and its interval.
    """

    factor: str
    base: str
    level: str
    ratio: Estimate


@dataclass(frozen=True, slots=True)
class Source:
    """A line of the analysis of variance.

    Attributes:
        name: factor, interaction or block.
        freedom: degrees.
        share: of the variance (η²).
        f: None for the residual.
        p: likewise.
    """

    name: str
    freedom: int
    share: float
    f: float | None
    p: float | None


@dataclass(frozen=True, slots=True)
class Effects:
    """What matters: effects of levels, and how much of the variance is whose."""

    levels: list[Effect]
    variance: list[Source]


def effects(family: Family) -> Effects | None:
    """Main effects and an analysis of variance (type II) of the metric's logarithm; None where too few trials.

    In logarithms an effect is a ratio, and adds up with others. Blocks are taken out of the residual.
    """
    frame = family.frame[family.frame[family.metric] > 0]
    names = {factor: f"x{number}" for number, factor in enumerate(family.factors)}
    names = {factor: short for factor, short in names.items() if frame[factor].nunique() > 1}
    if not names:
        return None
    data = pd.DataFrame({short: _categories(frame[factor], family) for factor, short in names.items()})
    data["y"], data["block"] = np.log(frame[family.metric]), frame["replicate"]
    block = "C(block)" if data["block"].nunique() > 1 else ""
    terms = [f"C({short})" for short in names.values()]
    needed = 1 + sum(data[short].nunique() - 1 for short in names.values()) + data["block"].nunique() - 1
    if len(data) <= needed:
        return None
    with warnings.catch_warnings():
        # Combinations that were left out make an interaction's columns depend on others: its freedom shrinks.
        warnings.simplefilter("ignore")
        main = ols("y ~ " + " + ".join([*terms, *filter(None, [block])]), data).fit()
        crossed = _crossed(data, list(names.values()), terms, block)
        variance = anova_lm(crossed or main, typ=2)
    return Effects(_levels(main, data, names), _sources(variance, names))


def _categories(column: "pd.Series[Any]", family: Family) -> "pd.Series[Any]":
    """Labels of a factor's levels; the first of the sweep is what the others are compared with."""
    there = {label(level) for level in column}
    levels = [label(level) for level in family.levels[str(column.name)]]
    return column.map(label).astype(pd.CategoricalDtype([level for level in levels if level in there]))


def _crossed(data: pd.DataFrame, shorts: list[str], terms: list[str], block: str) -> object | None:
    """The model with interactions of two factors; None where combinations are missing or trials too few."""
    combined = data.groupby(shorts, observed=True).ngroups
    if len(shorts) < 2 or combined < np.prod([data[short].nunique() for short in shorts]):
        return None
    pairs = [f"C({one}):C({other})" for one, other in combinations(shorts, 2)]
    fitted = ols("y ~ " + " + ".join([*terms, *pairs, *filter(None, [block])]), data).fit()
    return fitted if fitted.df_resid >= 1 else None


def _levels(main: object, data: pd.DataFrame, names: dict[str, str]) -> list[Effect]:
    found = []
    intervals = main.conf_int(1 - CONFIDENCE)  # type: ignore[attr-defined]  # statsmodels has no types
    for factor, short in names.items():
        base, *others = data[short].cat.categories
        for level in others:
            key = f"C({short})[T.{level}]"
            mean, (low, high) = main.params[key], intervals.loc[key]  # type: ignore[attr-defined]  # likewise
            ratio = Estimate(*(float(np.exp(value)) for value in (mean, low, high)))
            found.append(Effect(factor, str(base), str(level), ratio))
    return found


def _sources(variance: pd.DataFrame, names: dict[str, str]) -> list[Source]:
    whole = float(variance["sum_sq"].sum())
    back = {f"C({short})": factor for factor, short in names.items()} | {"C(block)": "block (replicate)"}
    found = []
    for key, line in variance.iterrows():
        name = " × ".join(back.get(part, part.lower()) for part in str(key).split(":"))
        has_f = not np.isnan(line["F"])
        found.append(
            Source(
                name,
                round(line["df"]),
                float(line["sum_sq"]) / whole if whole else 0.0,
                float(line["F"]) if has_f else None,
                float(line["PR(>F)"]) if has_f else None,
            )
        )
    return found


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """How many times ``theirs`` is as much as ``ours``, with Welch's interval of the logarithms."""
    one, other = np.log(np.asarray(ours, float)), np.log(np.asarray(theirs, float))
    middle = float(np.exp(other.mean() - one.mean()))
    if min(len(one), len(other)) < 2:
        return Estimate(middle, float("nan"), float("nan"))
    if one.std() == 0 and other.std() == 0:
        return Estimate(middle, middle, middle)
    interval = stats.ttest_ind(other, one, equal_var=False).confidence_interval(CONFIDENCE)
    return Estimate(middle, float(np.exp(interval.low)), float(np.exp(interval.high)))
