"""What lies where in ``/mpnet.<device>``.

Control creates the segment; control, workers and any reader map it. Each field is a 64-bit integer on an 8-byte
boundary, so no reader sees half a value, and each record fills whole cache lines, so no two writers share one.

    header            written by control; workers only read it
    rings[rings]      ring 2q is queue pair q's rx, 2q+1 its tx, the last the control queue; written by the
                      one worker that serves the pair
    workers[pairs]    written by that worker, but for the restart counts, which are control's
    spills[pairs]     room for one rx frame each: what did not fit into the guest's buffers yet
    logs[rings]       what the last burst of a packed ring returned: buffer id, entries, length
    traces[pairs + 1] what each worker did last, by slot, and behind these what control did: see ``segment.trace``

A ring's ``place`` says how far its worker is: chains are returned in the order in which they were taken. It is
stored before the guest sees what a burst returned, so a worker that takes over publishes that again and goes on:
nothing is returned twice and nothing is forgotten, wherever the previous worker died.
"""

import enum
from typing import Any

import numpy as np

MAGIC = 0x74656E706D  # "mpnet" read as a little-endian integer
VERSION = 7
MAX_QUEUE_PAIRS = 64
MAX_MEMORY_SLOTS = 509
"""Regions of a guest's memory: as many as QEMU's own library for back-ends takes."""
CACHE_LINE = 64
NAME_BYTES = 64
BOOT_ID_BYTES = 40
SPILL_BYTES = 80 * 1024
"""A whole frame of the TAP: 64 KiB of GSO payload, its headers and the virtio-net header, in whole pages."""


LOG_ENTRIES = 4096
"""Chains that one burst of a packed ring may return."""
LOG_ENTRY_BYTES = 8
LOG_BYTES = LOG_ENTRIES * LOG_ENTRY_BYTES
PAGE = 4096
TRACE_ENTRIES = 1024
"""Events that a trace keeps."""


class RingState(enum.IntEnum):
    """What a ring is doing."""

    STOPPED = 0
    DISABLED = 1
    RUNNING = 2
    BROKEN = 3


class Negotiation(enum.IntEnum):
    """How far a front-end has come with a device."""

    LISTENING = 0
    CONNECTED = 1
    FEATURES = 2
    MEMORY = 3
    RUNNING = 4


class DropReason(enum.IntEnum):
    """Why a frame was not delivered; a label of ``mpnet_queue_{rx,tx}_drops_total``."""

    SHORT_CHAIN = 0
    BAD_HEADER = 1
    TOO_LONG = 2
    TAP_ERROR = 3
    TAP_DOWN = 4
    DISABLED = 5
    BROKEN = 6


class Fault(enum.IntEnum):
    """How a guest broke its ring; the ring stands still until the guest resets it."""

    NONE = 0
    AVAIL_INDEX = 1
    HEAD_RANGE = 2
    NEXT_RANGE = 3
    CHAIN_LOOP = 4
    CHAIN_LENGTH = 5
    ZERO_LENGTH = 6
    DIRECTION = 7
    ADDRESS_RANGE = 8
    INDIRECT_NESTED = 9
    INDIRECT_WITH_NEXT = 10
    INDIRECT_LENGTH = 11
    INDIRECT_NOT_NEGOTIATED = 12
    TOO_MANY_SEGMENTS = 13
    MEMORY_LOST = 14
    RING_ADDRESS = 15


class RestartReason(enum.IntEnum):
    """Why control replaced a worker; a label of ``mpnet_worker_restarts_total``."""

    EXITED = 0
    KILLED = 1
    HUNG = 2
    FORBIDDEN = 3


class Engine(enum.IntEnum):
    """How frames are written to the TAP: ``rw`` is a system call each, ``uring`` one for those of a burst."""

    AUTO = 0
    RW = 1
    URING = 2


class Code(enum.IntEnum):
    """What a worker runs: the better, the greater."""

    UNKNOWN = 0
    INTERPRETED = 1
    COMPILED = 2


def name_of(kind: type[enum.IntEnum], value: int) -> str:
    """A value's name in lower case; a number that is none, as a worker that is taken over may write, as such."""
    try:
        return kind(value).name.lower()
    except ValueError:
        return f"unknown {value}"


BURST_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
"""Upper bounds of the frames-per-burst histogram, with one more bucket for what lies above."""
ROUND_BUCKETS_NS = (2_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 10_000_000)
"""Upper bounds of the histogram of a worker's rounds, with one more bucket likewise."""
MESSAGE_BUCKETS_NS = (
    *(100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000),
    *(50_000_000, 100_000_000, 500_000_000, 1_000_000_000, 5_000_000_000),
)
"""Upper bounds of the histogram of a front-end's messages, with one more bucket likewise."""

_HEADER_FIELDS = [
    ("magic", "i8"),
    ("version", "i8"),
    ("queue_pairs", "i8"),
    ("control_pid", "i8"),
    ("control_start_ticks", "i8"),  # ticks since the boot: ``segment.process`` tells it from a later process
    ("boot_id", f"S{BOOT_ID_BYTES}"),
    ("name", f"S{NAME_BYTES}"),
    ("features", "u8"),
    ("offered_features", "u8"),
    ("status", "i8"),
    ("enabled_pairs", "i8"),
    ("workers", "i8"),
    ("connections", "i8"),
    ("engine", "i8"),  # an Engine: what workers shall use
    ("negotiation", "i8"),
    ("metrics_port", "i8"),  # of the control process's exporter; 0 without one
    ("messages", "i8", (len(MESSAGE_BUCKETS_NS) + 1,)),  # of front-ends, by how long each took
    ("message_ns", "i8"),  # all of them together
]
_RING_FIELDS = [
    ("worker", "i8"),  # slot + 1 of the worker that serves it, or last did if that has crashed; 0: none does
    ("state", "i8"),
    ("fault", "i8"),
    ("entries", "i8"),
    ("place", "i8"),  # low 16 bits: all before is returned; above, of a packed ring, its last burst
    ("available_entries", "i8"),
    ("spilled", "i8"),  # bytes of the frame waiting in this pair's spill; rx rings only
    ("spill_done", "i8"),  # of a superframe there, bytes of payload that the guest has
    ("packets", "i8"),
    ("bytes", "i8"),
    ("gso_packets", "i8"),
    ("coalesced", "i8"),  # frames that went out as a part of a superframe; tx rings only
    ("coalesced_frames", "i8"),  # superframes they made
    ("coalesced_saved_bytes", "i8"),  # of headers that these did not repeat
    ("segmented", "i8"),  # frames that were a part of a superframe of the TAP; rx rings only
    ("segmented_frames", "i8"),  # superframes they were
    ("segmented_saved_bytes", "i8"),  # of headers that these had only once
    ("kicks", "i8"),
    ("calls", "i8"),
    ("calls_suppressed", "i8"),
    ("faults", "i8"),
    ("drops", "i8", (len(DropReason),)),
]
_WORKER_FIELDS = [
    ("pid", "i8"),
    ("start_ns", "i8"),  # CLOCK_REALTIME
    ("start_ticks", "i8"),  # ticks since the boot, as the header's
    ("heartbeat_ns", "i8"),  # CLOCK_MONOTONIC
    ("first_packet_ns", "i8"),  # CLOCK_MONOTONIC
    ("wakeups", "i8"),
    ("poll_hits", "i8"),  # times that work came while the worker polled for it
    ("poll_misses", "i8"),  # times that it gave up
    ("poll_ns", "i8"),  # time polled without work
    ("bursts", "i8", (len(BURST_BUCKETS) + 1,)),
    ("burst_packets", "i8"),
    ("rounds", "i8", (len(ROUND_BUCKETS_NS) + 1,)),
    ("round_ns", "i8"),  # all rounds together
    ("restarts", "i8", (len(RestartReason),)),
    ("engine", "i8"),  # an Engine: what it uses; AUTO before it has chosen
    ("code", "i8"),  # a Code: what it runs
]
_EVENT_FIELDS = [
    ("sequence", "i8"),  # its number, counted from 1; 0 while it is written
    ("time_ns", "i8"),  # CLOCK_REALTIME
    ("kind", "i8"),  # trace.Kind
    ("subject", "i8"),  # a ring, a queue pair, a worker's slot, or -1
    ("first", "i8"),
    ("second", "i8"),
    ("third", "i8"),
    ("reserved", "i8"),
]


def _padded(fields: list[Any]) -> np.dtype[Any]:
    gap = -np.dtype(fields).itemsize % CACHE_LINE // 8
    return np.dtype([*fields, ("padding", "i8", (gap,))]) if gap else np.dtype(fields)


HEADER = _padded(_HEADER_FIELDS)
RING = _padded(_RING_FIELDS)
WORKER = _padded(_WORKER_FIELDS)
EVENT = _padded(_EVENT_FIELDS)
TRACE_BYTES = -(-(CACHE_LINE + TRACE_ENTRIES * EVENT.itemsize) // PAGE) * PAGE
"""A trace: how many events it ever held, and the last ones; in whole pages, so that an unused one costs none."""


def workers_of(rings: Any) -> list[int | None]:
    """Slot of the worker that serves each queue pair, None where none does.

    Args:
        rings: all ring records of a device, or a copy of them.
    """
    return [worker - 1 if worker else None for worker in rings["worker"][:-1:2].tolist()]


def ring_count(queue_pairs: int) -> int:
    """Rings of a device: two per queue pair and the control queue (VIRTIO 5.1.2)."""
    return 2 * queue_pairs + 1


def segment_bytes(queue_pairs: int) -> int:
    """Size of a device's segment."""
    return trace_offset(queue_pairs, queue_pairs + 1)


def rings_offset() -> int:
    """Where the ring records begin: on a page, so that workers can be kept from writing to the header."""
    return -(-HEADER.itemsize // PAGE) * PAGE


def workers_offset(queue_pairs: int) -> int:
    """Where the worker records begin."""
    return rings_offset() + ring_count(queue_pairs) * RING.itemsize


def spill_offset(queue_pairs: int, pair: int) -> int:
    """Where the spill of a queue pair begins: on a page, so that an unused one costs no memory."""
    end = workers_offset(queue_pairs) + queue_pairs * WORKER.itemsize
    return -(-end // PAGE) * PAGE + pair * SPILL_BYTES


def log_offset(queue_pairs: int, ring: int) -> int:
    """Where the log of a ring begins."""
    return spill_offset(queue_pairs, queue_pairs) + ring * LOG_BYTES


def trace_offset(queue_pairs: int, number: int) -> int:
    """Where the trace of the worker in slot ``number`` begins; control's is number ``queue_pairs``."""
    end = log_offset(queue_pairs, ring_count(queue_pairs))
    return -(-end // PAGE) * PAGE + number * TRACE_BYTES
