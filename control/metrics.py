"""What a scrape of one control process gives: its devices, read from shared memory, and itself.

The packet path knows nothing of it: a scrape reads the counters the workers keep anyway.
"""

import platform
import threading
from collections.abc import Callable, Iterable
from importlib import metadata

from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.registry import Collector

import mpnet
from mpnet.control import log
from mpnet.control.exposition import Exposition, Reading
from mpnet.control.families import FAMILIES
from mpnet.control.usage import Usages
from mpnet.rpc.management import METHODS
from mpnet.segment.segment import Segment

Segments = Callable[[], Iterable[Segment]]
"""Gives the segments of the devices served now; called from the exporter's threads."""

_REQUEST_BUCKETS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)
"""Seconds: a look-up takes some hundred microseconds, starting workers tenths of seconds."""


class _LostLines(Collector):
    """What the log lacks."""

    def collect(self) -> Iterable[Metric]:
        """Read the log's own counters."""
        lost = CounterMetricFamily("mpnet_log_lines_lost", "Log lines that were not written.", labels=["reason"])
        lost.add_metric(["unwritable"], log.sink.lost)
        lost.add_metric(["limit"], log.limit.left_out)
        return [lost]


class Metrics:
    """The metrics of one control process.

    Args:
        segments: the devices served now.

    Attributes:
        usages: what ended workers have used, kept.
    """

    def __init__(self, segments: Segments) -> None:
        self.usages = Usages()
        self._segments = segments
        self._turn = threading.Lock()
        self._devices = Exposition(FAMILIES)
        # What is few goes through the library.
        self._own = CollectorRegistry()
        ProcessCollector(registry=self._own)
        build = Gauge(
            "mpnet_build_info",
            "Versions; the value is always 1.",
            ["version", "python", "numba"],
            registry=self._own,
        )
        build.labels(mpnet.__version__, platform.python_version(), metadata.version("numba")).set(1)
        self._requests = Histogram(
            "mpnet_control_request_duration_seconds",
            "Time to answer a request on the management socket.",
            ["method"],
            buckets=_REQUEST_BUCKETS,
            registry=self._own,
        )
        for method in METHODS:
            self._requests.labels(method)
        self._own.register(_LostLines())

    def observe_request(self, method: str, seconds: float) -> None:
        """Count a request of the management socket."""
        self._requests.labels(method).observe(seconds)

    def text(self, *, openmetrics: bool = False) -> str:
        """Read every segment once; in OpenMetrics' or Prometheus' own text format.

        Scrapes that come at once are answered one by one: one thread at a time keeps the event loop waiting.
        """
        with self._turn:
            return self._text(openmetrics=openmetrics)

    def _text(self, *, openmetrics: bool) -> str:
        readings = [
            Reading(segment, segment.header.copy(), self.usages.sample(segment)) for segment in self._segments()
        ]
        devices = self._devices.text(readings, openmetrics=openmetrics)
        generate = openmetrics_exposition.generate_latest if openmetrics else generate_latest
        # The library's part ends with OpenMetrics' mark of the end.
        return devices + generate(self._own).decode()
