"""The traffic sink: keeps an rx queue filled and checks what arrives, compiled.

It recognises a stream's datagrams by their mark, also where the device merged several into one frame (GRO), and
compares every byte of payload. Anything else that arrives is counted as other traffic.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpnet.guest.memory import GuestMemory
from mpnet.guest.stream import ETHERNET_BYTES, MAGIC, MARK_BYTES, Stream
from mpnet.guest.virtqueue import BROKEN, Virtqueue, add_one, notify, suppress_calls, take
from mpnet.jit.compile import compiled
from mpnet.jit.memory import copy, load_i64, load_u8, load_u16, load_u32
from mpnet.virtio import net_header
from mpnet.virtio.split_ring import DESC_F_WRITE

UNLIMITED = -1
_LARGEST_FRAME = 1 << 17
_ETHERTYPE_IPV4, _ETHERTYPE_IPV6 = 0x0800, 0x86DD
_UDP, _TCP = 17, 6
_WORD = 0xFFFFFFFF

SINK = np.dtype(
    [
        ("enabled", "i8"),
        ("buffers", "i8"),  # guest address of the first descriptor's buffer
        ("host_buffers", "i8"),
        ("stride", "i8"),
        ("header_bytes", "i8"),
        ("mergeable", "i8"),
        ("reference", "i8"),  # host address of one datagram's payload as it should be
        ("segment_bytes", "i8"),
        ("first_port", "i8"),
        ("flows", "i8"),
        ("check", "i8"),
        ("burst", "i8"),
        ("limit", "i8"),  # datagrams to wait for in all, or UNLIMITED
        ("whole", "i8"),  # host address where a frame of several buffers is put together
        ("filled", "i8"),  # bytes there
        ("missing", "i8"),  # buffers still to come
        ("frames", "i8"),
        ("packets", "i8"),  # datagrams of the stream
        ("bytes", "i8"),  # of frames, without virtio-net headers
        ("merged_frames", "i8"),  # frames that took several buffers
        ("gso_frames", "i8"),
        ("corrupt", "i8"),
        ("lost", "i8"),  # numbers jumped over
        ("reordered", "i8"),
        ("other", "i8"),  # frames not of the stream
    ]
)


class Sink(NamedTuple):
    """The sink of one rx queue.

    Attributes:
        state: one record of ``SINK``, shape ``(1,)``; its counters may be read while it runs.
        numbers: the number expected next of each flow, int64, shape ``(flows,)``.
        received: datagrams of each flow, int64, shape ``(flows,)``.
        scratch: memory behind ``reference`` and ``whole``.
    """

    state: Any
    numbers: NDArray[np.int64]
    received: NDArray[np.int64]
    scratch: NDArray[np.uint8]


def make_sink(
    memory: GuestMemory, ring_size: int, stream: Stream, header_bytes: int, *, buffer_bytes: int, burst: int
) -> Sink:
    """Take memory for a queue of ``ring_size`` descriptors with a buffer of ``buffer_bytes`` each."""
    stride = -(-buffer_bytes // 64) * 64
    guest = memory.allocate(stride * ring_size)
    payload = np.frombuffer(stream.payload(), np.uint8)
    scratch = np.zeros(_LARGEST_FRAME + len(payload), np.uint8)
    scratch[_LARGEST_FRAME:] = payload
    state = np.zeros(1, SINK).view(np.recarray)
    record = state[0]
    record.buffers, record.host_buffers = guest, memory.host_address(guest, stride * ring_size)
    record.stride, record.header_bytes, record.burst = stride, header_bytes, burst
    record.whole = scratch.ctypes.data
    record.reference = record.whole + _LARGEST_FRAME
    record.segment_bytes = stream.segment_bytes
    record.first_port, record.flows = stream.first_port, stream.flows
    return Sink(state, np.zeros(stream.flows, np.int64), np.zeros(stream.flows, np.int64), scratch)


@compiled
def receive_burst(queue: Virtqueue, sink: Sink) -> int:
    """Take up to a burst of buffers, account for them, fill the queue up; return how many, or ``BROKEN``."""
    ring = queue.state[0]
    state = sink.state[0]
    count = 0
    while count < state.burst:
        head, length = take(queue)
        if head == BROKEN or length > state.stride:
            return BROKEN
        if head < 0:
            break
        _collect(sink, state.host_buffers + head * state.stride, length)
        count += 1
    if count == 0 and ring.free_count == 0:
        return 0
    # Buffers are given back once all of the burst is accounted for: until then the device leaves them alone.
    suppress_calls(queue)
    while ring.free_count > 0:
        add_one(queue, state.buffers + ring.free_head * state.stride, state.stride, DESC_F_WRITE)
    notify(queue)
    return count


@compiled
def _collect(sink: Sink, buffer: int, length: int) -> None:
    """Add one used buffer to the frame under way; account for the frame once it is whole."""
    state = sink.state[0]
    if state.missing == 0:
        state.filled = 0
        state.missing = 1
        if state.mergeable != 0 and length >= net_header.BYTES:
            state.missing = max(1, load_u16(buffer + net_header.NUM_BUFFERS))
        if state.missing == 1:
            state.missing = 0
            _account(sink, buffer, length)
            return
        state.merged_frames += 1
    if state.filled + length <= _LARGEST_FRAME:
        copy(state.whole + state.filled, buffer, length)
    state.filled += length
    state.missing -= 1
    if state.missing == 0:
        if state.filled <= _LARGEST_FRAME:
            _account(sink, state.whole, state.filled)
        else:
            state.frames += 1
            state.corrupt += 1


@compiled
def _account(sink: Sink, address: int, length: int) -> None:
    """Count a whole frame of ``length`` bytes, header included, and the stream's datagrams in it."""
    state = sink.state[0]
    frame = address + state.header_bytes
    end = address + length
    state.frames += 1
    state.bytes += max(0, end - frame)
    if length >= net_header.LEGACY_BYTES and load_u8(address + net_header.GSO_TYPE) != net_header.GSO_NONE:
        state.gso_frames += 1
    payload = _payload(frame, end)
    if payload == 0 or payload + MARK_BYTES > end or load_u32(payload) != MAGIC:
        state.other += 1
        return
    while payload < end:
        if payload + state.segment_bytes > end:
            state.corrupt += 1
            return
        _check(sink, payload)
        payload += state.segment_bytes


@compiled
def _payload(frame: int, end: int) -> int:
    """Address of a UDP or TCP frame's payload; 0 where it is none, or cut short."""
    if frame + 60 > end:
        return 0
    ethertype = _big_u16(frame + 12)
    if ethertype == _ETHERTYPE_IPV4:
        protocol = load_u8(frame + ETHERNET_BYTES + 9)
        transport = frame + ETHERNET_BYTES + 4 * (load_u8(frame + ETHERNET_BYTES) & 15)
    elif ethertype == _ETHERTYPE_IPV6:
        protocol = load_u8(frame + ETHERNET_BYTES + 6)
        transport = frame + ETHERNET_BYTES + 40
    else:
        return 0
    if protocol == _UDP:
        return transport + 8
    if protocol == _TCP and transport + 13 <= end:
        return transport + 4 * (load_u8(transport + 12) >> 4)
    return 0


@compiled
def _check(sink: Sink, mark: int) -> None:
    """Count one datagram of the stream by its mark, and compare what follows the mark."""
    state = sink.state[0]
    number = load_u32(mark + 4)
    flow = (_big_u16(mark + 12) ^ 0xFFFF) - state.first_port
    marked = load_u32(mark) == MAGIC and load_u32(mark + 8) ^ number == _WORD and 0 <= flow < state.flows
    if not marked or (state.check != 0 and not _same(mark, state.reference, state.segment_bytes)):
        state.corrupt += 1
        return
    state.packets += 1
    sink.received[flow] += 1
    ahead = (number - sink.numbers[flow]) & _WORD
    if ahead > _WORD >> 1:
        state.reordered += 1
        return
    state.lost += ahead
    sink.numbers[flow] = (number + 1) & _WORD


@compiled
def _same(payload: int, reference: int, size: int) -> bool:
    """Compare what follows the marks of two payloads of ``size`` bytes."""
    place = MARK_BYTES
    while place + 8 <= size:
        if load_i64(payload + place) != load_i64(reference + place):
            return False
        place += 8
    while place < size:
        if load_u8(payload + place) != load_u8(reference + place):
            return False
        place += 1
    return True


@compiled
def _big_u16(address: int) -> int:
    return load_u8(address) << 8 | load_u8(address + 1)


@compiled
def received_all(sink: Sink) -> bool:
    """Tell whether the sink has nothing left to wait for."""
    state = sink.state[0]
    reached = state.limit != UNLIMITED and state.packets + state.corrupt >= state.limit
    done: bool = state.enabled == 0 or reached
    return done
