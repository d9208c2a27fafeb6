"""Which metrics a device has: names, labels, and where in shared memory their values are.

A label ``queue`` is the queue pair's number, ``worker`` the worker's slot in its device, and rx is what the guest
receives. All there is, is exported from the start, as zero.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from mpnet.control.exposition import Family, Number, Reading, cumulated, labels
from mpnet.segment.layout import (
    BURST_BUCKETS,
    ROUND_BUCKETS_NS,
    DropReason,
    Engine,
    Negotiation,
    RestartReason,
    RingState,
)
from mpnet.segment.segment import Segment
from mpnet.virtio import features
from mpnet.virtio.features import Feature

_NS = 1e-9
_NOT_THE_GUESTS = features.mask(Feature.VHOST_LOG_ALL, Feature.VHOST_USER_PROTOCOL_FEATURES)
_DIRECTIONS = ("rx", "tx")

Series = Callable[[Segment], list[str]]
Values = Callable[[Reading], Sequence[Number]]


# Rows: what each table of metrics has a sample for.


def _device_rows(segment: Segment) -> list[str]:
    return [labels({"device": segment.name})]


def _device_by(label: str, names: Iterable[str]) -> Series:
    fixed = tuple(names)
    return lambda segment: [labels({"device": segment.name, label: name}) for name in fixed]


def _rows(owner: str, suffix: str = "", label: str = "", names: Iterable[str] = ("",)) -> Series:
    """One sample a queue or worker, or one for each name of a label; a device has as many of either."""
    fixed = tuple(names)

    def series(segment: Segment) -> list[str]:
        return [
            suffix + labels({"device": segment.name, owner: number, **({label: name} if label else {})})
            for number, name in itertools.product(range(segment.queue_pairs), fixed)
        ]

    return series


def _histogram_rows(bounds: Iterable[float]) -> Series:
    """The samples of each worker's histogram, as ``cumulated`` gives their values."""
    les = [*(str(float(bound)) for bound in bounds), "+Inf"]

    def series(segment: Segment) -> list[str]:
        rows = []
        for number in range(segment.queue_pairs):
            worker: dict[str, object] = {"device": segment.name, "worker": number}
            rows += ["_bucket" + labels({**worker, "le": le}) for le in les]
            rows += ["_count" + labels(worker), "_sum" + labels(worker)]
        return rows

    return series


# Devices.


def _device(name: str, help_text: str, value: Callable[[Segment], Number]) -> Family:
    return Family(f"mpnet_device_{name}", "gauge", help_text, _device_rows, lambda seen: [value(seen.segment)])


def _is_up(segment: Segment) -> int:
    return int((segment.rings[: 2 * segment.queue_pairs].state == RingState.RUNNING).any())


def _negotiation(reading: Reading) -> list[Number]:
    return [int(reading.segment.header.negotiation == stage) for stage in Negotiation]


def _feature_bits(segment: Segment) -> list[int]:
    both = int(segment.header.offered_features) | int(segment.header.features)
    return list(features.bit_numbers(both & ~_NOT_THE_GUESTS))


def _feature_rows(segment: Segment) -> list[str]:
    names = [features.names(1 << bit)[0] for bit in _feature_bits(segment)]
    return [labels({"device": segment.name, "feature": name}) for name in names]


def _feature_values(reading: Reading) -> list[Number]:
    negotiated = int(reading.segment.header.features)
    return [negotiated >> bit & 1 for bit in _feature_bits(reading.segment)]


_DEVICES = (
    _device("up", "1 while the guest's driver runs the device.", _is_up),
    _device("queue_pairs", "Queue pairs of the device.", lambda segment: segment.queue_pairs),
    _device(
        "enabled_queue_pairs", "Queue pairs the guest uses.", lambda segment: int(segment.header.enabled_pairs)
    ),
    _device("workers", "Worker processes the device shall have.", lambda segment: int(segment.header.workers)),
    Family(
        "mpnet_device_connections",
        "counter",
        "Front-ends that have connected.",
        lambda segment: ["_total" + labels({"device": segment.name})],
        lambda seen: [int(seen.segment.header.connections)],
    ),
    Family(
        "mpnet_device_negotiation",
        "gauge",
        "1 for the stage at which the front-end is, 0 for the others.",
        _device_by("stage", (stage.name.lower() for stage in Negotiation)),
        _negotiation,
    ),
    Family(
        "mpnet_device_feature_enabled",
        "gauge",
        "1 for a feature that is negotiated, 0 for one that is only offered.",
        _feature_rows,
        _feature_values,
        fixed=False,
    ),
)


# Queues.


def _column(direction: str, field: str) -> Values:
    """A field of one ring of each queue pair."""
    first = _DIRECTIONS.index(direction)
    return lambda seen: list(seen.segment.rings[first : 2 * seen.segment.queue_pairs : 2][field].tolist())


def _traffic(name: str, direction: str, help_text: str, field: str = "") -> Family:
    """A counter with the direction in its name."""
    values = _column(direction, field or name)
    return Family(f"mpnet_queue_{direction}_{name}", "counter", help_text, _rows("queue", "_total"), values)


def _drops(direction: str) -> Family:
    first = _DIRECTIONS.index(direction)
    return Family(
        f"mpnet_queue_{direction}_drops",
        "counter",
        "Frames that were not delivered, by reason.",
        _rows("queue", "_total", "reason", (reason.name.lower() for reason in DropReason)),
        lambda seen: list(seen.segment.rings[first : 2 * seen.segment.queue_pairs : 2].drops.ravel().tolist()),
    )


def _level(name: str, field: str, help_text: str) -> Family:
    """A gauge of rx rings."""
    return Family(f"mpnet_queue_rx_{name}", "gauge", help_text, _rows("queue"), _column("rx", field))


def _notification(field: str, help_text: str) -> Family:
    """A counter with the direction as a label."""
    return Family(
        f"mpnet_queue_{field}",
        "counter",
        help_text,
        _rows("queue", "_total", "direction", _DIRECTIONS),
        lambda seen: list(seen.segment.rings[: 2 * seen.segment.queue_pairs][field].tolist()),
    )


def _state(name: str, state: RingState, help_text: str) -> Family:
    return Family(
        f"mpnet_queue_{name}",
        "gauge",
        help_text,
        _rows("queue", "", "direction", _DIRECTIONS),
        lambda seen: [
            int(now == state) for now in seen.segment.rings[: 2 * seen.segment.queue_pairs].state.tolist()
        ],
    )


_QUEUES = (
    *(
        family
        for direction in _DIRECTIONS
        for family in (
            _traffic("packets", direction, f"Frames of the guest's {direction} queue."),
            _traffic("bytes", direction, f"Bytes of the frames of the guest's {direction} queue."),
            _traffic(
                "gso_packets", direction, f"Frames of the {direction} queue that are to be segmented later."
            ),
            _drops(direction),
        )
    ),
    _traffic(
        "coalesced_packets", "tx", "Frames of the guest that went out as a part of a superframe.", "coalesced"
    ),
    _traffic("coalesced_frames", "tx", "Superframes made of frames of the guest's tx queue."),
    _traffic("coalesced_saved_bytes", "tx", "Bytes of headers that superframes did not repeat."),
    _traffic(
        "segmented_packets", "rx", "Frames for the guest that came in as a part of a superframe.", "segmented"
    ),
    _traffic("segmented_frames", "rx", "Superframes that frames of the guest's rx queue were cut from."),
    _traffic("segmented_saved_bytes", "rx", "Bytes of headers that these superframes did not repeat."),
    _level("ring_entries", "entries", "Size of the rx ring; 0 when stopped."),
    _level("ring_available_entries", "available_entries", "Buffers the guest has ready in its rx ring."),
    _level(
        "spilled_bytes", "spilled", "Size of the frame that waits for buffers of the guest; 0 when none does."
    ),
    _notification("kicks", "Notifications from the guest."),
    _notification("calls", "Notifications sent to the guest."),
    _notification("calls_suppressed", "Notifications the guest had asked not to get."),
    _notification("faults", "Times the guest broke the ring."),
    _state("running", RingState.RUNNING, "1 while the ring is served."),
    _state("broken", RingState.BROKEN, "1 while the ring stands still because the guest broke it."),
)


# Workers.


def _worker(name: str, kind: Literal["counter", "gauge"], help_text: str, values: Values) -> Family:
    return Family(f"mpnet_worker_{name}", kind, help_text, _rows("worker", _SUFFIX[kind]), values)


_SUFFIX = {"counter": "_total", "gauge": ""}


def _histogram(name: str, help_text: str, bounds: Iterable[float], values: Values) -> Family:
    return Family(f"mpnet_worker_{name}", "histogram", help_text, _histogram_rows(bounds), values)


def _histogram_values(counts: str, total: str, unit: float = 1) -> Values:
    def values(reading: Reading) -> list[Number]:
        workers = reading.segment.workers
        columns = zip(workers[counts].tolist(), workers[total].tolist(), strict=True)
        return list(itertools.chain.from_iterable(cumulated(buckets, sum_ * unit) for buckets, sum_ in columns))

    return values


def _polls(reading: Reading) -> list[Number]:
    workers = reading.segment.workers
    columns = zip(workers.poll_hits.tolist(), workers.poll_misses.tolist(), strict=True)
    return list(itertools.chain.from_iterable(columns))


def _heartbeats(reading: Reading) -> list[Number]:
    # Heartbeats are on the monotonic clock, which nobody sets.
    epoch_ns = time.time_ns() - time.monotonic_ns()
    return [(epoch_ns + beat) * _NS if beat else 0 for beat in reading.segment.workers.heartbeat_ns.tolist()]


_WORKERS = (
    _worker(
        "up",
        "gauge",
        "1 while there is a process in the slot.",
        lambda seen: [int(used.alive) for used in seen.usage],
    ),
    Family(
        "mpnet_worker_restarts",
        "counter",
        "Workers replaced, by what became of them.",
        _rows("worker", "_total", "reason", (reason.name.lower() for reason in RestartReason)),
        lambda seen: list(seen.segment.workers.restarts.ravel().tolist()),
    ),
    _worker(
        "start_time_seconds",
        "gauge",
        "When the worker started, since the epoch; 0 before.",
        lambda seen: [start * _NS for start in seen.segment.workers.start_ns.tolist()],
    ),
    _worker(
        "heartbeat_timestamp_seconds",
        "gauge",
        "When the worker last showed that it runs, since the epoch; 0 before.",
        _heartbeats,
    ),
    _worker(
        "wakeups",
        "counter",
        "Times the worker slept and was woken.",
        lambda seen: list(seen.segment.workers.wakeups.tolist()),
    ),
    Family(
        "mpnet_worker_polls",
        "counter",
        "Times the worker looked for work before it slept: in time (hit), or for nothing (miss).",
        _rows("worker", "_total", "outcome", ("hit", "miss")),
        _polls,
    ),
    _worker(
        "polled_seconds",
        "counter",
        "Time in which the worker looked for work and there was none.",
        lambda seen: [polled * _NS for polled in seen.segment.workers.poll_ns.tolist()],
    ),
    Family(
        "mpnet_worker_engine",
        "gauge",
        "1 for how the worker writes to the TAP; auto: it has not chosen yet.",
        _rows("worker", "", "engine", (engine.name.lower() for engine in Engine)),
        lambda seen: [int(used == engine) for used in seen.segment.workers.engine.tolist() for engine in Engine],
    ),
    _histogram(
        "batch_packets", "Frames moved at a time.", BURST_BUCKETS, _histogram_values("bursts", "burst_packets")
    ),
    _histogram(
        "round_duration_seconds",
        "Time of a round of bursts over the queues of a worker: a frame that comes meanwhile waits no longer.",
        [bound / 1e9 for bound in ROUND_BUCKETS_NS],
        _histogram_values("rounds", "round_ns", _NS),
    ),
    Family(
        "mpnet_worker_cpu_seconds",
        "counter",
        "Processor time used by the workers of a slot.",
        _rows("worker", "_total", "state", ("user", "system")),
        lambda seen: [seconds for used in seen.usage for seconds in (used.user, used.system)],
    ),
    Family(
        "mpnet_worker_context_switches",
        "counter",
        "Times the worker gave its processor up (voluntary) or lost it (involuntary).",
        _rows("worker", "_total", "kind", ("voluntary", "involuntary")),
        lambda seen: [count for used in seen.usage for count in (used.voluntary, used.involuntary)],
    ),
    Family(
        "mpnet_worker_memory_bytes",
        "gauge",
        "Resident memory: its own, some of it common with its siblings by fork (anonymous), or guest memory, "
        "segment and libraries (shared).",
        _rows("worker", "", "kind", ("anonymous", "shared")),
        lambda seen: [size for used in seen.usage for size in (used.anonymous_bytes, used.shared_bytes)],
    ),
)

FAMILIES: tuple[Family, ...] = (*_DEVICES, *_QUEUES, *_WORKERS)
"""In the order in which a scrape gives them."""
