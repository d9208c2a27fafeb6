"""What samples come to: medians, ratios to mpnet, and when noise leaves them without meaning."""

from collections.abc import Sequence
from statistics import median, quantiles

import msgspec

NOISY_RATIO = 0.2
"""A ratio is noisy where the middle half of the rounds' ratios is wider than this share of their median."""
NOISY_STEAL = 0.05
"""A run is noisy where the hypervisor took more than this share of the processors' time."""
NOISY_WAIT = 0.05
"""A run is noisy where the driver waited for its processor for more than this share of the time."""

FAR = 3
"""A case is noisy where its processors were this many times as far apart in some turns as in others."""


class Result(msgspec.Struct, kw_only=True, frozen=True):
    """One figure of one case on one system, compared with mpnet's.

    Attributes:
        case: its name, and the figure's where it has several.
        system: which.
        unit: of samples and medians.
        samples: mpnet's and the system's, one a round, in the same order.
        median: the system's.
        mpnet_median: mpnet's.
        ratio: above 1, mpnet is that many times better, whatever the unit; None where a median is 0.
        spread: the system's lowest and highest sample.
    """

    case: str
    system: str
    unit: str
    samples: tuple[list[float], list[float]]
    median: float
    mpnet_median: float
    ratio: float | None
    spread: tuple[float, float]


def compare(case: str, system: str, unit: str, ours: list[float], theirs: list[float], *, lower: bool) -> Result:
    """Compare a system's samples with mpnet's of the same rounds; ``lower`` where less is better."""
    return Result(
        case=case,
        system=system,
        unit=unit,
        samples=(ours, theirs),
        median=median(theirs),
        mpnet_median=median(ours),
        ratio=ratio(median(ours), median(theirs), lower=lower),
        spread=(min(theirs), max(theirs)),
    )


def ratio(ours: float, theirs: float, *, lower: bool) -> float | None:
    """How many times better mpnet's figure is; None where one of them is 0."""
    if ours <= 0 or theirs <= 0:
        return None
    return theirs / ours if lower else ours / theirs


def width(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """How wide the middle half of the rounds' ratios is, as a share of their median; None without ratios.

    Both samples of a round were taken one after the other, so what drifts slowly cancels out.
    """
    ratios = [one / other for one, other in zip(ours, theirs, strict=True) if one > 0 and other > 0]
    if len(ratios) < max(2, len(ours)):
        return None
    low, middle, high = quantiles(ratios, n=4, method="inclusive")
    return (high - low) / middle


def noise(result: Result) -> str:
    """Why a result's ratio means nothing; empty where it does."""
    found = width(*result.samples)
    where = f"{result.case}, {result.system}"
    if found is None:
        return f"{where}: fewer than two rounds, or nothing arrived in one of them"
    if found > NOISY_RATIO:
        return f"{where}: the rounds' ratios differ by {found:.0%} (limit {NOISY_RATIO:.0%})"
    return ""
