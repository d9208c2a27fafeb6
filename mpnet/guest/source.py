"""The traffic source: keeps a tx queue full of numbered frames, compiled.

Each descriptor has a buffer of its own that holds the stream's frame from the start; to send one more is to
number it, and to offer its descriptor.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpnet.guest.memory import GuestMemory
from mpnet.guest.stream import ETHERNET_BYTES, FIRST_SEQUENCE, Stream
from mpnet.guest.virtqueue import BROKEN, Virtqueue, add_one, notify, suppress_calls, take
from mpnet.jit.compile import compiled
from mpnet.jit.memory import prefetch_to_write, store_u8, store_u32
from mpnet.segment.layout import CACHE_LINE

UNLIMITED = -1
_IDENTIFICATION, _IP_CHECKSUM = 4, 10
"""Offsets in an IPv4 header (RFC 791, 3.1)."""
_SEQUENCE, _CHECKSUM = 4, 16
"""Offsets in a TCP header (RFC 9293, 3.1)."""
SOURCE = np.dtype(
    [
        ("buffers", "i8"),  # guest address of the first descriptor's buffer
        ("host_buffers", "i8"),
        ("stride", "i8"),
        ("length", "i8"),  # of a buffer: header and frame
        ("port_at", "i8"),  # offsets in a buffer
        ("payload_at", "i8"),
        ("identification_at", "i8"),  # of an IPv4 header's identification; 0: it has none
        ("ip_checksum", "i8"),  # sum of all of that header, but for the identification
        ("sequence_at", "i8"),  # of a TCP header's sequence number; 0: it has none
        ("checksum_at", "i8"),  # of its checksum, where the device does not complete it; else 0
        ("checksum", "i8"),  # sum of all that it covers, but for the sequence number
        ("segments", "i8"),
        ("segment_bytes", "i8"),
        ("frame_bytes", "i8"),
        ("first_port", "i8"),
        ("flows", "i8"),
        ("flow_run", "i8"),  # frames of one flow in a row
        ("burst", "i8"),
        ("limit", "i8"),  # datagrams to send in all, or UNLIMITED
        ("flow", "i8"),
        ("flow_left", "i8"),
        ("frames", "i8"),
        ("packets", "i8"),  # datagrams: a frame's segments each count
        ("bytes", "i8"),  # of frames, without virtio-net headers
        ("returned", "i8"),  # frames the device is done with
    ]
)


class Source(NamedTuple):
    """The source of one tx queue.

    Attributes:
        state: one record of ``SOURCE``, shape ``(1,)``; its counters may be read while it runs.
        numbers: the next datagram's number of each flow, int64, shape ``(flows,)``.
    """

    state: Any
    numbers: NDArray[np.int64]


def make_source(
    memory: GuestMemory, ring_size: int, stream: Stream, header_bytes: int, *, burst: int, flow_run: int
) -> Source:
    """Take memory for a queue of ``ring_size`` descriptors and write the stream's frame into every buffer."""
    frame = stream.frame()
    contents = stream.header().pack(header_bytes) + frame
    stride = -(-len(contents) // 64) * 64
    guest = memory.allocate(stride * ring_size)
    for number in range(ring_size):
        memory.write(guest + number * stride, contents)
    state = np.zeros(1, SOURCE).view(np.recarray)
    record = state[0]
    record.buffers, record.host_buffers = guest, memory.host_address(guest, stride * ring_size)
    record.stride, record.length, record.frame_bytes = stride, len(contents), len(frame)
    record.port_at = header_bytes + stream.transport_at
    record.payload_at = header_bytes + stream.payload_at
    if not stream.ipv6:
        record.identification_at = header_bytes + ETHERNET_BYTES + _IDENTIFICATION
        stored = int.from_bytes(frame[ETHERNET_BYTES + _IP_CHECKSUM :][:2], "big")
        record.ip_checksum = stored ^ 0xFFFF
    if stream.tcp:
        record.sequence_at = record.port_at + _SEQUENCE
        if not stream.offloaded:
            record.checksum_at = record.port_at + _CHECKSUM
            stored = int.from_bytes(frame[stream.transport_at + _CHECKSUM :][:2], "big")
            record.checksum = (stored ^ 0xFFFF) + (FIRST_SEQUENCE ^ 0xFFFF)
    record.segments, record.segment_bytes = stream.segments, stream.segment_bytes
    record.first_port, record.flows = stream.first_port, stream.flows
    record.burst, record.flow_run, record.flow_left = burst, flow_run, flow_run
    return Source(state, np.zeros(stream.flows, np.int64))


@compiled
def send_burst(queue: Virtqueue, source: Source) -> int:
    """Take back what the device is done with and send up to a burst of frames; return how many, or ``BROKEN``."""
    ring = queue.state[0]
    state = source.state[0]
    head, _ = take(queue)
    while head >= 0:
        state.returned += 1
        head, _ = take(queue)
    if head == BROKEN:
        return BROKEN
    count: int = min(state.burst, ring.free_count)
    if state.limit != UNLIMITED:
        left = (state.limit - state.packets + state.segments - 1) // state.segments
        count = min(count, left)
    if count <= 0:
        return 0
    suppress_calls(queue)
    _fetch(queue, source, count)
    for _ in range(count):
        head = ring.free_head
        _number(source, state.host_buffers + head * state.stride)
        add_one(queue, state.buffers + head * state.stride, state.length, 0)
    state.frames += count
    state.packets += count * state.segments
    state.bytes += count * state.frame_bytes
    notify(queue)
    return count


@compiled
def _fetch(queue: Virtqueue, source: Source, count: int) -> None:
    """Have the headers of the next ``count`` frames on their way from the device's processor, all at once."""
    state = source.state[0]
    head = queue.state[0].free_head
    for _ in range(count):
        buffer = state.host_buffers + head * state.stride
        prefetch_to_write(buffer)
        prefetch_to_write(buffer + CACHE_LINE)
        head = queue.links[head]


@compiled
def _number(source: Source, buffer: int) -> None:
    """Make the frame in ``buffer`` the next one of the stream."""
    state = source.state[0]
    flow = state.flow
    state.flow_left -= 1
    if state.flow_left == 0:
        state.flow_left = state.flow_run
        state.flow = flow + 1 if flow + 1 < state.flows else 0
    port = state.first_port + flow
    store_u8(buffer + state.port_at, port >> 8)
    store_u8(buffer + state.port_at + 1, port)
    number = source.numbers[flow]
    if state.identification_at != 0:
        _identification(source, buffer, number & 0xFFFF)
    if state.sequence_at != 0:
        _sequence(source, buffer, (FIRST_SEQUENCE + number * state.segment_bytes) & 0xFFFFFFFF)
    mark = buffer + state.payload_at
    for _ in range(state.segments):
        store_u32(mark + 4, number)
        store_u32(mark + 8, ~number)
        store_u8(mark + 12, ~port >> 8)
        store_u8(mark + 13, ~port)
        number = (number + 1) & 0xFFFFFFFF
        mark += state.segment_bytes
    source.numbers[flow] = number


@compiled
def _identification(source: Source, buffer: int, number: int) -> None:
    """Count a flow's packets in their IPv4 headers, as Linux's sockets do (RFC 1071 for the checksum)."""
    state = source.state[0]
    total = state.ip_checksum + number
    total = (total & 0xFFFF) + (total >> 16)
    field = buffer + state.identification_at
    store_u8(field, number >> 8)
    store_u8(field + 1, number)
    store_u8(field + _IP_CHECKSUM - _IDENTIFICATION, ~total >> 8)
    store_u8(field + _IP_CHECKSUM - _IDENTIFICATION + 1, ~total)


@compiled
def _sequence(source: Source, buffer: int, sequence: int) -> None:
    """Write a TCP frame's sequence number, and its checksum unless the device does (RFC 1071)."""
    state = source.state[0]
    for byte in range(4):
        store_u8(buffer + state.sequence_at + byte, sequence >> 24 - 8 * byte)
    if state.checksum_at != 0:
        total = state.checksum + (sequence >> 16) + (sequence & 0xFFFF)
        while total > 0xFFFF:
            total = (total & 0xFFFF) + (total >> 16)
        store_u8(buffer + state.checksum_at, ~total >> 8)
        store_u8(buffer + state.checksum_at + 1, ~total)


@compiled
def sent_all(source: Source) -> bool:
    """Tell whether the limit is reached and the device is done with every frame."""
    state = source.state[0]
    done: bool = state.limit != UNLIMITED and state.packets >= state.limit and state.returned == state.frames
    return done
