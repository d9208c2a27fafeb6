"""Prometheus metrics of all devices, read from their shared memory when somebody asks.

The packet path knows nothing of it: a scrape reads the counters the workers keep anyway.
"""

import itertools
import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

import mpnet
from mpnet.control.cpu_time import CpuTimes
from mpnet.errors import MpnetError
from mpnet.rpc.management import METHODS
from mpnet.segment.layout import BURST_BUCKETS, DropReason, RestartReason, RingState
from mpnet.segment.segment import Segment
from mpnet.virtio import features
from mpnet.virtio.features import Feature

Segments = Callable[[], Iterable[Segment]]
"""Gives the segments of the devices served now; called from the exporter's threads."""

_NS = 1e-9
_NOT_THE_GUESTS = features.mask(Feature.VHOST_LOG_ALL, Feature.VHOST_USER_PROTOCOL_FEATURES)
_DIRECTIONS = ("rx", "tx")
_QUEUE = ["device", "queue"]
_RING = [*_QUEUE, "direction"]
_WORKER = ["device", "worker"]
_REQUEST_BUCKETS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)
"""Seconds: a look-up takes some hundred microseconds, starting workers tenths of seconds."""


class SegmentCollector(Collector):
    """Turns segments into metrics.

    A label ``queue`` is the queue pair's number, ``worker`` the worker's slot in its device, and a direction is
    the guest's: rx is what it receives. Everything there is, is exported from the start, as zero.

    Args:
        segments: the devices.
        cpu_times: keeps what ended workers have used.
    """

    def __init__(self, segments: Segments, cpu_times: CpuTimes) -> None:
        self._segments = segments
        self._cpu_times = cpu_times

    def describe(self) -> Iterator[Metric]:
        """Names of the metrics, without reading a segment."""
        yield from self._families(())

    def collect(self) -> Iterator[Metric]:
        """Read every segment once."""
        yield from self._families(tuple(self._segments()))

    def _families(self, segments: Iterable[Segment]) -> Iterator[Metric]:
        yield _build_info()
        yield from _device_families(segments)
        yield from _queue_families(segments)
        yield from _ring_families(segments)
        yield from _worker_families(segments)
        yield self._cpu_family(segments)

    def _cpu_family(self, segments: Iterable[Segment]) -> Metric:
        family = CounterMetricFamily(
            "mpnet_worker_cpu_seconds",
            "Processor time used by the workers of a slot.",
            labels=[*_WORKER, "state"],
        )
        for segment in segments:
            for slot, times in enumerate(self._cpu_times.sample(segment)):
                family.add_metric([segment.name, str(slot), "user"], times.user)
                family.add_metric([segment.name, str(slot), "system"], times.system)
        return family


def _build_info() -> Metric:
    family = GaugeMetricFamily(
        "mpnet_build_info", "Versions; the value is always 1.", labels=["version", "python", "numba"]
    )
    family.add_metric([mpnet.__version__, platform.python_version(), metadata.version("numba")], 1)
    return family


def _device_families(segments: Iterable[Segment]) -> Iterator[Metric]:
    up = GaugeMetricFamily("mpnet_device_up", "1 while the guest's driver runs the device.", labels=["device"])
    enabled = GaugeMetricFamily(
        "mpnet_device_feature_enabled",
        "1 for a feature that is negotiated, 0 for one that is only offered.",
        labels=["device", "feature"],
    )
    for segment in segments:
        data_rings = segment.rings[: 2 * segment.queue_pairs]
        up.add_metric([segment.name], int((data_rings.state == RingState.RUNNING).any()))
        offered, negotiated = int(segment.header.offered_features), int(segment.header.features)
        for bit in features.bit_numbers((offered | negotiated) & ~_NOT_THE_GUESTS):
            enabled.add_metric([segment.name, *features.names(1 << bit)], negotiated >> bit & 1)
    yield from (up, enabled)


def _queue_families(segments: Iterable[Segment]) -> Iterator[Metric]:
    """Traffic, with the direction in the metric's name."""
    for offset, direction in enumerate(_DIRECTIONS):
        packets = CounterMetricFamily(
            f"mpnet_queue_{direction}_packets", f"Frames of the guest's {direction} queue.", labels=_QUEUE
        )
        octets = CounterMetricFamily(
            f"mpnet_queue_{direction}_bytes",
            f"Bytes of the frames of the guest's {direction} queue.",
            labels=_QUEUE,
        )
        drops = CounterMetricFamily(
            f"mpnet_queue_{direction}_drops",
            "Frames that were not delivered, by reason.",
            labels=[*_QUEUE, "reason"],
        )
        for segment in segments:
            for pair in range(segment.queue_pairs):
                ring, labels = segment.rings[2 * pair + offset], [segment.name, str(pair)]
                packets.add_metric(labels, int(ring.packets))
                octets.add_metric(labels, int(ring.bytes))
                for reason in DropReason:
                    drops.add_metric([*labels, reason.name.lower()], int(ring.drops[reason]))
        yield from (packets, octets, drops)
    yield from _superframe_families(segments)
    entries = GaugeMetricFamily(
        "mpnet_queue_rx_ring_entries", "Size of the rx ring; 0 when stopped.", labels=_QUEUE
    )
    available = GaugeMetricFamily(
        "mpnet_queue_rx_ring_available_entries", "Buffers the guest has ready in its rx ring.", labels=_QUEUE
    )
    for segment in segments:
        for pair in range(segment.queue_pairs):
            ring, labels = segment.rings[2 * pair], [segment.name, str(pair)]
            entries.add_metric(labels, int(ring.entries))
            available.add_metric(labels, int(ring.available_entries))
    yield from (entries, available)


_SUPERFRAME_COUNTERS = {
    "tx_coalesced_packets": (
        "coalesced",
        "Frames of the guest's tx queue that went out as a part of a superframe.",
    ),
    "tx_coalesced_frames": ("coalesced_frames", "Superframes made of frames of the guest's tx queue."),
    "tx_coalesced_saved_bytes": ("coalesced_saved_bytes", "Bytes of headers that superframes did not repeat."),
    "rx_segmented_packets": (
        "segmented",
        "Frames of the guest's rx queue that came in as a part of a superframe.",
    ),
    "rx_segmented_frames": ("segmented_frames", "Superframes that frames of the guest's rx queue were cut from."),
    "rx_segmented_saved_bytes": (
        "segmented_saved_bytes",
        "Bytes of headers that superframes cut up did not repeat.",
    ),
}


def _superframe_families(segments: Iterable[Segment]) -> Iterator[Metric]:
    """How far frames of one flow went together outside of the guest: what the TAP counts is less by that."""
    for name, (field, help_text) in _SUPERFRAME_COUNTERS.items():
        family = CounterMetricFamily(f"mpnet_queue_{name}", help_text, labels=_QUEUE)
        offset = _DIRECTIONS.index(name[:2])
        for segment in segments:
            for pair in range(segment.queue_pairs):
                family.add_metric([segment.name, str(pair)], int(segment.rings[2 * pair + offset][field]))
        yield family


_RING_COUNTERS = {
    "kicks": "Notifications from the guest.",
    "calls": "Notifications sent to the guest.",
    "calls_suppressed": "Notifications the guest had asked not to get.",
    "faults": "Times the guest broke the ring.",
}


def _ring_families(segments: Iterable[Segment]) -> Iterator[Metric]:
    """Counters of single rings, with the direction as a label."""
    for field, help_text in _RING_COUNTERS.items():
        family = CounterMetricFamily(f"mpnet_queue_{field}", help_text, labels=_RING)
        for segment in segments:
            for pair, (offset, direction) in itertools.product(
                range(segment.queue_pairs), enumerate(_DIRECTIONS)
            ):
                value = int(segment.rings[2 * pair + offset][field])
                family.add_metric([segment.name, str(pair), direction], value)
        yield family


def _worker_families(segments: Iterable[Segment]) -> Iterator[Metric]:
    bursts = HistogramMetricFamily("mpnet_worker_batch_packets", "Frames moved at a time.", labels=_WORKER)
    restarts = CounterMetricFamily(
        "mpnet_worker_restarts", "Workers replaced, by what became of them.", labels=[*_WORKER, "reason"]
    )
    start = GaugeMetricFamily(
        "mpnet_worker_start_time_seconds", "When the worker started, since the epoch; 0 before.", labels=_WORKER
    )
    heartbeat = GaugeMetricFamily(
        "mpnet_worker_heartbeat_timestamp_seconds",
        "When the worker last showed that it runs, since the epoch; 0 before.",
        labels=_WORKER,
    )
    # Heartbeats are on the monotonic clock, which nobody sets.
    epoch_ns = time.time_ns() - time.monotonic_ns()
    for segment in segments:
        for slot, worker in enumerate(segment.workers):
            labels = [segment.name, str(slot)]
            bursts.add_metric(labels, _buckets(worker.bursts), int(worker.burst_packets))
            for reason in RestartReason:
                restarts.add_metric([*labels, reason.name.lower()], int(worker.restarts[reason]))
            start.add_metric(labels, int(worker.start_ns) * _NS)
            beat_ns = int(worker.heartbeat_ns)
            heartbeat.add_metric(labels, (epoch_ns + beat_ns) * _NS if beat_ns else 0)
    yield from (bursts, restarts, start, heartbeat)


def _buckets(counts: Any) -> list[tuple[str, float]]:
    """Prometheus' buckets, each of which counts those below it too."""
    bounds = [*(str(float(bound)) for bound in BURST_BUCKETS), "+Inf"]
    return list(zip(bounds, itertools.accumulate(int(count) for count in counts), strict=True))


class Metrics:
    """The metrics of one control process and the server that gives them out.

    Args:
        segments: the devices served now.
    """

    def __init__(self, segments: Segments) -> None:
        self.registry = CollectorRegistry()
        self.cpu_times = CpuTimes()
        self.registry.register(SegmentCollector(segments, self.cpu_times))
        self._requests = Histogram(
            "mpnet_control_request_duration_seconds",
            "Time to answer a request on the management socket.",
            ["method"],
            buckets=_REQUEST_BUCKETS,
            registry=self.registry,
        )
        for method in METHODS:
            self._requests.labels(method)
        self._server: tuple[WSGIServer, threading.Thread] | None = None

    def observe_request(self, method: str, seconds: float) -> None:
        """Count a request of the management socket."""
        self._requests.labels(method).observe(seconds)

    def serve(self, host: str, port: int) -> int:
        """Answer scrapes over HTTP from a thread of its own, in Prometheus' or OpenMetrics' text format.

        Returns:
            The port, which Linux chose where 0 was asked for.

        Raises:
            MpnetError: the address cannot be bound.
        """
        try:
            self._server = start_http_server(port, host, self.registry)
        except OSError as error:
            raise MpnetError(
                f"cannot serve metrics on {host}:{port}: {error.strerror}",
                "choose another address with --metrics HOST:PORT, or stop what listens there",
            ) from None
        return int(self._server[0].server_port)

    def close(self) -> None:
        """Stop answering."""
        if self._server is None:
            return
        server, thread = self._server
        server.shutdown()
        server.server_close()
        thread.join()
        self._server = None
