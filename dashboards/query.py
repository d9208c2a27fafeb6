"""PromQL that several panels share."""

from mpnet.dashboards.panel import RATE, WORKER, Query

BY_DEVICE = "instance, device"
BY_QUEUE = "instance, device, queue"
BY_WORKER = "instance, device, worker"


def rate(metric: str, matchers: str) -> str:
    """Change of a counter a second."""
    return f"rate({metric}{{{matchers}}}{RATE})"


def sum_rate(by: str, metric: str, matchers: str) -> str:
    """The same, summed up by labels."""
    return f"sum by ({by}) ({rate(metric, matchers)})"


def both_ways(by: str, what: str, matchers: str, legend: str, factor: str = "") -> tuple[Query, ...]:
    """rx and tx of a counter that has the direction in its name."""
    return tuple(
        Query(f"{sum_rate(by, f'mpnet_queue_{way}_{what}_total', matchers)}{factor}", f"{legend} {way}")
        for way in ("rx", "tx")
    )


def quantile(share: float, by: str, histogram: str, matchers: str = WORKER) -> str:
    """Of a histogram: the value that a share of its samples is not above."""
    return f"histogram_quantile({share}, sum by ({by}, le) ({rate(f'{histogram}_bucket', matchers)}))"


def mean(by: str, histogram: str) -> str:
    """Of a workers' histogram."""
    return f"{sum_rate(by, f'{histogram}_sum', WORKER)} / ({sum_rate(by, f'{histogram}_count', WORKER)} > 0)"
