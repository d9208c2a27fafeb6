"""A worker's private state, laid out for compiled code, and the context that every hot function takes."""

import platform
from typing import Any, NamedTuple

import numpy as np

from mpnet.jit import uring
from mpnet.jit.bundle import bundle, make_table
from mpnet.segment import layout
from mpnet.segment.layout import MAX_MEMORY_SLOTS
from mpnet.virtio import split_ring

MAX_REGIONS = MAX_MEMORY_SLOTS
MAX_IOVECS = 131072
"""Buffers that one burst may hold translated."""
MAX_SEGMENTS = split_ring.MAX_SIZE
"""Descriptors of one chain, indirect ones included."""
BURST = 64
"""Frames a queue may move before the next queue has its turn; frames that go to the TAP together are one."""
TX_FRAMES = 256
"""Frames a tx queue may move, however few they become: 64 KiB of each of a few flows."""
RX_FRAMES = 256
"""Frames an rx queue may move, however few the TAP gave that were cut into them."""
RING_BURST = 128
"""Frames moved within guest memory at a time: half a common ring, while the driver is at the other half."""
BURST_SEGMENTS = 4096
"""Descriptors that a burst may walk before it ends early, so that long chains starve no other queue."""
FLOW_SLOTS = 256
"""Slots of the table of a burst's flows, of which there are ``BURST`` at most."""
MAX_PIECES = 16
"""Buffers at most of a frame that is coalesced; the kernel's own limit for a packet is 17."""
HEADERS_BYTES = 12 + 14 + 4 + 40 + 60
"""The most that headers take: virtio-net, Ethernet, a tag, IPv6, TCP with all its options."""
PRIVATE_BYTES = -(-HEADERS_BYTES // layout.CACHE_LINE) * layout.CACHE_LINE
"""Room for headers."""
TEMPLATE_BYTES = 512
"""The most that the headers of a superframe that is segmented take, IPv4 options and IPv6 extensions included."""
ETHERNET_HEADER_BYTES = 14
MAX_EVENTS = 256
HEARTBEAT_MS = 2000
"""The longest sleep: how often an idle worker shows that it lives. Control takes 5 s of silence for a hang."""

# On x86-64 alone struct epoll_event is packed: 12 bytes, its data at 4; elsewhere 16 and 8.
EPOLL_EVENT_BYTES = 12 if platform.machine() == "x86_64" else 16
EPOLL_DATA_OFFSET = EPOLL_EVENT_BYTES - 8
FRAMES = 0
"""Kind of event, in its low byte: the TAP queue of the ring whose index is above that has frames."""
KICK = 1
"""Likewise: the ring was kicked."""
ATTENTION = 2
"""Likewise: Python's part of the worker has something to do."""

WORKER = np.dtype(
    [
        ("slot", "i8"),  # its number among the workers of the device
        ("epoll_fd", "i8"),
        ("memory_lost", "i8"),  # pages that vanished under us, counted by the SIGBUS handler
        ("memory_lost_seen", "i8"),
        ("regions", "i8"),
        ("last_region", "i8"),
        ("total", "i8"),  # bytes of the chain under way
        ("readable", "i8"),  # bytes of the last walked chain's device-readable part
        ("descriptors", "i8"),  # entries of the ring's own table that the last walked chain takes
        ("buffer_id", "i8"),  # of the last chain taken: its head in a split ring, its id in a packed one
        ("span", "i8"),  # entries by which it moves the ring's cursor on
        ("fault", "i8"),  # layout.Fault of the last walk
        ("pairs", "i8"),
        ("broken", "i8"),  # a ring broke since control was last told
        ("iovecs", "i8"),  # address of MAX_IOVECS struct iovec
        ("bounce", "i8"),  # address of SPILL_BYTES for a frame in too many pieces
        ("table", "i8"),  # address of a private copy of an indirect table that crosses regions
        ("header", "i8"),  # address of the private copy of a virtio-net header
        ("burst", "i8"),  # tx bursts so far: what of the table of flows is of this one
        ("held", "i8"),  # packets of this burst that wait for more of their flow
        ("filled", "i8"),  # the packet last added to has no room for more
        ("written", "i8"),  # packets of this burst that have been written to the TAP, or refused by it
        ("refused", "i8"),  # superframes of this burst that are to be sent frame by frame
        ("joined", "i8"),  # address of TX_FRAMES * (MAX_PIECES + 1) struct iovec: the buffers of superframes
        ("joined_used", "i8"),  # of these, in this burst
        ("events", "i8"),
        ("timespec", "i8"),
        ("poll_ns", "i8"),  # budget of a poll, 0 for none
        ("window_ns", "i8"),  # how long a poll goes on now
        ("polling", "i8"),
        ("worked_ns", "i8"),  # end of the last round that moved something, CLOCK_MONOTONIC
        ("looked_ns", "i8"),  # end of the last round, likewise
        ("idle_rounds", "i8"),  # rounds of this poll since then
        ("crowded_ns", "i8"),  # no poll begins before: others need the processor
        ("one", "i8"),  # address of the 8 bytes that signal an eventfd
        ("trace_ring", "i8"),  # address of the worker's trace in the segment
        ("trace_bursts", "i8"),  # bursts are traced too
        ("capture_bytes", "i8"),  # of a lane's data
        ("capture_snaplen", "i8"),
        ("capture_ns", "i8"),  # CLOCK_REALTIME of the burst under way, where it is captured
    ]
)
RING = np.dtype(
    [
        ("started", "i8"),
        ("enabled", "i8"),
        ("ready", "i8"),  # there may be work
        ("entries", "i8"),  # named so because an array record has a size of its own
        ("descriptors", "i8"),
        ("avail", "i8"),
        ("used", "i8"),
        ("packed", "i8"),
        # Places in the ring: a free-running index modulo 2^16 in a split ring, position and wrap counter in a
        # packed one. Chains are returned in the order in which they were taken.
        ("place", "i8"),  # all before it is returned and published
        ("returned", "i8"),  # all before it is returned, by this burst
        ("cursor", "i8"),  # all before it is taken, by this burst
        ("limit", "i8"),  # split: the driver's avail index when the burst began
        ("log", "i8"),  # packed: address of what this burst returned
        ("logged", "i8"),  # packed: chains noted there
        ("moved", "i8"),  # packed: entries returned since the last decision to call
        ("kicks_wanted", "i8"),  # the driver has been asked to kick
        ("signalled", "i8"),  # used index at the last decision to call, -1 when a call is due whatever it was
        ("event_idx", "i8"),
        ("indirect", "i8"),
        ("mergeable", "i8"),
        ("header_bytes", "i8"),
        ("offloads", "i8"),  # GUEST_CSUM: the driver takes header flags
        ("kick_fd", "i8"),
        ("call_fd", "i8"),
        ("err_fd", "i8"),
        ("backend", "i8"),  # TAP, NULL or ECHO
        ("tap_fd", "i8"),
        ("spill", "i8"),
        ("expected", "i8"),  # rx: bytes of buffers to hold ready for the next frame
        ("shorts", "i8"),  # rx: short frames one after the other, up to now
        ("staged", "i8"),  # rx: frames are read into the spill first
        ("whole", "i8"),  # rx: bit N for GSO type N that the driver takes as it is, and GSO_ECN
        ("capture", "i8"),  # address of the lane that its frames are copied to, or 0
        ("batch", "i8"),  # rx: frames after which those of a burst are shown to the driver
        ("more", "i8"),  # rx: the last burst ended there, and not because the TAP had no more
        ("coalesce", "i8"),  # tx: COALESCE_ON, COALESCE_TCP and COALESCE_UDP
        ("accepted", "i8"),  # of these, the kinds of superframes that the kernel has been seen to take
    ]
)
FRAME = np.dtype(
    [
        ("private", "i8"),  # address of PRIVATE_BYTES: copy of its headers; as many follow for a superframe's
        ("start", "i8"),  # address of the private copy of the frame itself
        ("whole", "i8"),  # address of header and frame in guest memory where they are one buffer, else 0
        ("first", "i8"),  # the frame's buffers but for what is taken from the private copy: the first slot
        ("end", "i8"),
        ("octets", "i8"),  # of the frame, without virtio-net header
        ("headers", "i8"),  # bytes that are taken from the private copy
        ("gso_type", "i8"),  # what its flow's superframes are (net_header.GSO_*), 0: its flow is not known
        ("ipv6", "i8"),
        ("network", "i8"),  # offsets in the frame
        ("transport", "i8"),
        ("payload", "i8"),  # bytes
        ("hashed", "i8"),  # of addresses and ports
        ("mergeable", "i8"),  # it may be part of a superframe, if its checksum is right
        ("checksum", "i8"),  # UNKNOWN, RIGHT or WRONG
        ("final", "i8"),  # no frame may follow it in a superframe
        ("held", "i8"),  # it waits, as the first of what may become a superframe, with:
        ("count", "i8"),  # frames in it
        ("total", "i8"),  # bytes of payload
        ("pieces", "i8"),  # buffers
        ("last", "i8"),  # its last frame
        ("next", "i8"),  # the frame that follows in the superframe, or -1
        ("refused", "i8"),  # the superframe that it begins was refused, and is to be sent frame by frame
    ]
)
TAP = 0
NULL = 1
ECHO = 2
COALESCE_TCP = 1
COALESCE_UDP = 2
COALESCE_ON = 4
"""Frames are looked at: also where the kernel refuses all superframes, as some may be waiting still."""
COALESCE_ALL = COALESCE_ON | COALESCE_TCP | COALESCE_UDP
ALL_WHOLE = 0xFF
"""The driver takes all that the TAP gives: nothing is segmented."""
UNKNOWN = 0
RIGHT = 1
WRONG = 2
REGION = np.dtype([("guest_address", "i8"), ("length", "i8"), ("host_address", "i8")])
WINDOW = np.dtype(
    [
        ("translated", "i8"),  # chains walked in this burst
        ("filled", "i8"),  # of these, how many hold a frame
        ("begin", "i8"),  # first slot of the chains that are walked and not filled
        ("end", "i8"),
        ("bytes", "i8"),
        ("descriptors", "i8"),  # of the ring's own table, in all chains that have been walked
        ("fault", "i8"),
        ("reads", "i8"),  # frames read from the TAP
        ("errors", "i8"),  # reads of it that failed
    ]
)
SUPERFRAME = np.dtype(
    [
        ("template", "i8"),  # address of TEMPLATE_BYTES: virtio-net header and headers of a segment
        ("known", "i8"),  # what is below is of the superframe in the spill
        ("gso_size", "i8"),  # bytes of payload of each segment but the last
        ("payload", "i8"),  # of all
        ("headers", "i8"),  # without the virtio-net header
        ("network", "i8"),  # offsets in the frame
        ("transport", "i8"),
        ("ipv6", "i8"),
        ("tcp", "i8"),
        ("identification", "i8"),  # the first segment's, as are sequence number and flags
        ("network_sum", "i8"),  # of the IPv4 header without length, identification and checksum
        ("partial", "i8"),  # of the pseudo-header without length
        ("sequence", "i8"),
        ("tcp_flags", "i8"),
    ]
)
CHAIN = np.dtype([("buffer_id", "i8"), ("span", "i8"), ("end", "i8"), ("bytes", "i8")])


@bundle
class Context(NamedTuple):
    """Everything compiled code works on; a numba argument, so the order and the types are fixed.

    Attributes:
        worker: one ``WORKER`` record.
        rings: private ``RING`` records, by ring index.
        shared: the segment's ``layout.RING`` records, by ring index.
        stats: one ``layout.WORKER`` record of the segment.
        regions: ``REGION`` records; the first ``worker.regions`` count.
        window: one ``WINDOW`` record: the rx buffers that lie ready.
        chains: ``CHAIN`` records: the chains of the window; without a TAP, of a burst and of a frame's room.
        pairs: queue pairs served; the first ``worker.pairs`` count.
        frames: ``FRAME`` records: the frames of the tx burst.
        flows: the frame last seen of each flow of the tx burst, by hash; ``burst * TX_FRAMES + number``.
        superframe: one ``SUPERFRAME`` record: what is being segmented.
        uring: one ``uring.RING`` record, whose ``fd`` is -1 where writes are not batched.
        table: where all of these are, for compiled code.
    """

    worker: Any
    rings: Any
    shared: Any
    stats: Any
    regions: Any
    window: Any
    chains: Any
    pairs: Any
    frames: Any
    flows: Any
    superframe: Any
    uring: Any
    table: Any


class Scratch:
    """Private memory that compiled code uses by address; kept alive by this object."""

    def __init__(self) -> None:
        self._arrays: list[Any] = []

    def allocate(self, size: int) -> int:
        """Address of ``size`` zeroed bytes, untouched and so free until used."""
        return self.keep(np.zeros(size, np.uint8))

    def keep(self, array: Any) -> int:
        """Address of ``array``, which lives from here on as long as this object."""
        self._arrays.append(array)
        return int(array.ctypes.data)


def _records(dtype: np.dtype[Any], count: int) -> Any:
    return np.zeros(count, dtype).view(np.recarray)


def make_context(shared: Any, stats: Any, scratch: Scratch) -> Context:
    """The context of a worker that serves nothing yet.

    Args:
        shared: the segment's ring records.
        stats: the worker's own record in the segment, as an array of one.
        scratch: where to allocate from.
    """
    worker = _records(WORKER, 1)
    own = worker[0]
    own.epoll_fd = -1
    own.iovecs = scratch.allocate(16 * MAX_IOVECS)
    own.bounce = scratch.allocate(layout.SPILL_BYTES)
    own.table = scratch.allocate(split_ring.DESCRIPTOR_BYTES * MAX_SEGMENTS)
    own.header = scratch.allocate(64)
    own.events = scratch.allocate(EPOLL_EVENT_BYTES * MAX_EVENTS)
    own.timespec = scratch.allocate(16)
    own.trace_ring = scratch.allocate(layout.TRACE_BYTES)
    own.one = scratch.keep(np.ones(1, np.int64))
    own.joined = scratch.allocate(16 * TX_FRAMES * (MAX_PIECES + 1))
    superframe = _records(SUPERFRAME, 1)
    superframe[0].template = scratch.allocate(TEMPLATE_BYTES)
    frames = _records(FRAME, TX_FRAMES)
    private = scratch.allocate(2 * PRIVATE_BYTES * TX_FRAMES)
    for number, frame in enumerate(frames):
        frame.private = private + 2 * PRIVATE_BYTES * number
    members = {
        "worker": worker,
        "rings": _records(RING, len(shared)),
        "shared": shared,
        "stats": stats,
        "regions": _records(REGION, MAX_REGIONS),
        "window": _records(WINDOW, 1),
        "chains": _records(CHAIN, RING_BURST + split_ring.MAX_SIZE),
        "pairs": np.zeros(layout.MAX_QUEUE_PAIRS, np.int64),
        "frames": frames,
        "flows": np.zeros(FLOW_SLOTS, np.int64),
        "superframe": superframe,
        "uring": uring.make_state(),
    }
    return Context(**members, table=make_table(list(members.values())))
