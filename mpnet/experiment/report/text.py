"""Figures as people read them."""

import math

from mpnet.experiment.analysis import Estimate


def number(value: float) -> str:
    """With three digits that count, or whole with thousands apart."""
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def interval(value: Estimate) -> str:
    """Both ends, or a dash where a single value has none."""
    return "–" if math.isnan(value.low) else f"{number(value.low)} to {number(value.high)}"


def percent(share: float, *, sign: bool = False) -> str:
    """A share; with a sign where it is a change."""
    if math.isnan(share):
        return "–"
    size = abs(100 * share)
    digits = 0 if size >= 10 else 1 if size >= 0.05 or size == 0 else 2
    shown = f"{100 * share:+.{digits}f}" if sign else f"{100 * share:.{digits}f}"
    return f"{shown.replace('-', '−')} %"
