"""Which metrics a device has: names, labels, and where in shared memory their values are.

A label ``queue`` is the queue pair's number, ``worker`` the worker's slot in its device, and rx is what the guest
receives. All there is, is exported from the start, as zero.
"""

import enum
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from mpnet.control.exposition import Family, Number, Reading, cumulated, labels
from mpnet.segment.layout import (
    BURST_BUCKETS,
    MESSAGE_BUCKETS_NS,
    ROUND_BUCKETS_NS,
    Code,
    DropReason,
    Engine,
    Negotiation,
    RestartReason,
    RingState,
    workers_of,
)
from mpnet.virtio import features
from mpnet.virtio.features import Feature

_NS = 1e-9
_NOT_THE_GUESTS = features.mask(Feature.VHOST_LOG_ALL, Feature.VHOST_USER_PROTOCOL_FEATURES)
_DIRECTIONS = ("rx", "tx")

Series = Callable[[Reading], list[str]]
Values = Callable[[Reading], Sequence[Number]]
Kind = Literal["counter", "gauge"]
_SUFFIX = {"counter": "_total", "gauge": ""}


# Rows: what each table of metrics has a sample for.


def _lower(names: type[enum.IntEnum]) -> tuple[str, ...]:
    return tuple(each.name.lower() for each in names)


def _device_rows(suffix: str = "", label: str = "", names: Iterable[str] = ("",)) -> Series:
    """One sample a device, or one for each name of a label."""
    fixed = tuple(names)
    return lambda seen: [
        suffix + labels({"device": seen.segment.name, **({label: name} if label else {})}) for name in fixed
    ]


def _rows(owner: str, suffix: str = "", label: str = "", names: Iterable[str] = ("",)) -> Series:
    """One sample a queue or worker, or one for each name of a label; a device has as many of either."""
    fixed = tuple(names)

    def series(seen: Reading) -> list[str]:
        return [
            suffix + labels({"device": seen.segment.name, owner: number, **({label: name} if label else {})})
            for number, name in itertools.product(range(seen.segment.queue_pairs), fixed)
        ]

    return series


def _histogram_rows(bounds: Iterable[float], of: Mapping[str, object]) -> list[str]:
    """The samples of a histogram, as ``cumulated`` gives their values."""
    les = [*(str(float(bound)) for bound in bounds), "+Inf"]
    buckets = ["_bucket" + labels({**of, "le": le}) for le in les]
    return [*buckets, "_count" + labels(of), "_sum" + labels(of)]


# Devices.


def _device(name: str, help_text: str, value: Callable[[Reading], Number], kind: Kind = "gauge") -> Family:
    rows = _device_rows(_SUFFIX[kind])
    return Family(f"mpnet_device_{name}", kind, help_text, rows, lambda seen: [value(seen)])


def _is_up(seen: Reading) -> int:
    return int((seen.segment.rings[: 2 * seen.segment.queue_pairs].state == RingState.RUNNING).any())


def _feature_bits(seen: Reading) -> list[int]:
    both = int(seen.header.offered_features) | int(seen.header.features)
    return list(features.bit_numbers(both & ~_NOT_THE_GUESTS))


def _feature_rows(seen: Reading) -> list[str]:
    names = [features.names(1 << bit)[0] for bit in _feature_bits(seen)]
    return [labels({"device": seen.segment.name, "feature": name}) for name in names]


def _feature_values(seen: Reading) -> list[Number]:
    negotiated = int(seen.header.features)
    return [negotiated >> bit & 1 for bit in _feature_bits(seen)]


_DEVICES = (
    _device("up", "1 while the guest's driver runs the device.", _is_up),
    _device("queue_pairs", "Queue pairs of the device.", lambda seen: seen.segment.queue_pairs),
    _device("enabled_queue_pairs", "Queue pairs the guest uses.", lambda seen: int(seen.header.enabled_pairs)),
    _device("workers", "Worker processes the device shall have.", lambda seen: int(seen.header.workers)),
    _device(
        "connections", "Front-ends that have connected.", lambda seen: int(seen.header.connections), "counter"
    ),
    Family(
        "mpnet_device_negotiation",
        "gauge",
        "1 for the stage at which the front-end is, 0 for the others.",
        _device_rows("", "stage", _lower(Negotiation)),
        lambda seen: [int(seen.header.negotiation == stage) for stage in Negotiation],
    ),
    Family(
        "mpnet_device_feature_enabled",
        "gauge",
        "1 for a feature that is negotiated, 0 for one that is only offered.",
        _feature_rows,
        _feature_values,
        fixed=False,
    ),
    Family(
        "mpnet_device_message_duration_seconds",
        "histogram",
        "Time to carry out and answer a vhost-user message of the front-end.",
        lambda seen: _histogram_rows(
            [bound / 1e9 for bound in MESSAGE_BUCKETS_NS], {"device": seen.segment.name}
        ),
        lambda seen: cumulated(seen.header.messages.tolist(), int(seen.header.message_ns) * _NS),
    ),
)


# Queues.


def _column(direction: str, field: str) -> Values:
    """A field of one ring of each queue pair; the parts of a field that has several, one after the other."""
    first = _DIRECTIONS.index(direction)
    return lambda seen: list(seen.segment.rings[first : 2 * seen.segment.queue_pairs : 2][field].ravel().tolist())


def _traffic(name: str, direction: str, help_text: str, field: str = "") -> Family:
    """A counter with the direction in its name."""
    values = _column(direction, field or name)
    return Family(f"mpnet_queue_{direction}_{name}", "counter", help_text, _rows("queue", "_total"), values)


def _drops(direction: str) -> Family:
    return Family(
        f"mpnet_queue_{direction}_drops",
        "counter",
        "Frames that were not delivered, by reason.",
        _rows("queue", "_total", "reason", _lower(DropReason)),
        _column(direction, "drops"),
    )


def _level(name: str, field: str, help_text: str) -> Family:
    """A gauge of rx rings."""
    return Family(f"mpnet_queue_rx_{name}", "gauge", help_text, _rows("queue"), _column("rx", field))


def _both(name: str, kind: Kind, help_text: str, values: Values) -> Family:
    """A metric with the direction as a label."""
    rows = _rows("queue", _SUFFIX[kind], "direction", _DIRECTIONS)
    return Family(f"mpnet_queue_{name}", kind, help_text, rows, values)


def _notification(field: str, help_text: str) -> Family:
    return _both(
        field,
        "counter",
        help_text,
        lambda seen: list(seen.segment.rings[: 2 * seen.segment.queue_pairs][field].tolist()),
    )


def _state(name: str, state: RingState, help_text: str) -> Family:
    def values(seen: Reading) -> list[Number]:
        return [int(now == state) for now in seen.segment.rings[: 2 * seen.segment.queue_pairs].state.tolist()]

    return _both(name, "gauge", help_text, values)


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
    Family(
        "mpnet_queue_worker",
        "gauge",
        "Slot of the worker that serves the queue pair; -1 while none does.",
        _rows("queue"),
        lambda seen: [-1 if slot is None else slot for slot in workers_of(seen.segment.rings)],
    ),
)


# Workers.


def _worker(
    name: str, kind: Kind, help_text: str, values: Values, label: str = "", names: Iterable[str] = ("",)
) -> Family:
    rows = _rows("worker", _SUFFIX[kind], label, names)
    return Family(f"mpnet_worker_{name}", kind, help_text, rows, values)


def _fields(*names: str, unit: Number = 1) -> Values:
    """Fields of each worker's record, one after the other; all parts of a field that has several."""

    def values(seen: Reading) -> list[Number]:
        columns = np.column_stack([seen.segment.workers[name] for name in names])
        return [unit * value for value in columns.ravel().tolist()]

    return values


def _used(*names: str) -> Values:
    """Fields of what the workers of each slot have used, one after the other."""
    return lambda seen: [getattr(used, name) for used in seen.usage for name in names]


def _histogram(
    name: str, help_text: str, bounds: Sequence[float], fields: tuple[str, str], unit: Number = 1
) -> Family:
    """A histogram whose buckets are in one field of each worker's record and whose sum in another."""

    def series(seen: Reading) -> list[str]:
        of = [{"device": seen.segment.name, "worker": number} for number in range(seen.segment.queue_pairs)]
        return [row for each in of for row in _histogram_rows(bounds, each)]

    def values(seen: Reading) -> list[Number]:
        columns = zip(*(seen.segment.workers[field].tolist() for field in fields), strict=True)
        return [value for buckets, total in columns for value in cumulated(buckets, total * unit)]

    return Family(f"mpnet_worker_{name}", "histogram", help_text, series, values)


def _heartbeats(seen: Reading) -> list[Number]:
    # Heartbeats are on the monotonic clock, which nobody sets.
    epoch_ns = time.time_ns() - time.monotonic_ns()
    return [(epoch_ns + beat) * _NS if beat else 0 for beat in seen.segment.workers.heartbeat_ns.tolist()]


def _alive(seen: Reading) -> list[Number]:
    return [int(used.alive) for used in seen.usage]


def _engines(seen: Reading) -> list[Number]:
    return [int(used == engine) for used in seen.segment.workers.engine.tolist() for engine in Engine]


def _codes(seen: Reading) -> list[Number]:
    return [int(run == code) for run in seen.segment.workers.code.tolist() for code in Code]


_WORKERS = (
    _worker("up", "gauge", "1 while there is a process in the slot.", _alive),
    _worker(
        "restarts",
        "counter",
        "Workers replaced, by what became of them.",
        _fields("restarts"),
        "reason",
        _lower(RestartReason),
    ),
    _worker(
        "start_time_seconds",
        "gauge",
        "When the worker started, since the epoch; 0 before.",
        _fields("start_ns", unit=_NS),
    ),
    _worker(
        "heartbeat_timestamp_seconds",
        "gauge",
        "When the worker last showed that it runs, since the epoch; 0 before.",
        _heartbeats,
    ),
    _worker("wakeups", "counter", "Times the worker slept and was woken.", _fields("wakeups")),
    _worker(
        "polls",
        "counter",
        "Times the worker looked for work before it slept: in time (hit), or for nothing (miss).",
        _fields("poll_hits", "poll_misses"),
        "outcome",
        ("hit", "miss"),
    ),
    _worker(
        "polled_seconds",
        "counter",
        "Time in which the worker looked for work and there was none.",
        _fields("poll_ns", unit=_NS),
    ),
    _worker(
        "engine",
        "gauge",
        "1 for how the worker writes to the TAP; auto: it has not chosen yet.",
        _engines,
        "engine",
        _lower(Engine),
    ),
    _worker(
        "code",
        "gauge",
        "1 for what the worker runs: interpreted until the data path is compiled; unknown before it started.",
        _codes,
        "code",
        _lower(Code),
    ),
    _histogram("batch_packets", "Frames moved at a time.", BURST_BUCKETS, ("bursts", "burst_packets")),
    _histogram(
        "round_duration_seconds",
        "Time of a round of bursts over the queues of a worker: a frame that comes meanwhile waits no longer.",
        [bound / 1e9 for bound in ROUND_BUCKETS_NS],
        ("rounds", "round_ns"),
        _NS,
    ),
    _worker(
        "cpu_seconds",
        "counter",
        "Processor time used by the workers of a slot.",
        _used("user", "system"),
        "state",
        ("user", "system"),
    ),
    _worker(
        "context_switches",
        "counter",
        "Times the worker gave its processor up (voluntary) or lost it (involuntary).",
        _used("voluntary", "involuntary"),
        "kind",
        ("voluntary", "involuntary"),
    ),
    _worker(
        "memory_bytes",
        "gauge",
        "Resident memory: its own, some of it common with its siblings by fork (anonymous), or guest memory, "
        "segment and libraries (shared).",
        _used("anonymous_bytes", "shared_bytes"),
        "kind",
        ("anonymous", "shared"),
    ),
)

FAMILIES: tuple[Family, ...] = (*_DEVICES, *_QUEUES, *_WORKERS)
"""In the order in which a scrape gives them."""
