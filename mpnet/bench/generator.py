"""What the host sends to a guest: frames into a TAP through a packet socket, compiled.

A window at a time, which keeps the TAP's queue from overflowing, so that no processor time goes into frames that
are dropped; or so many at once, where what is measured begins when they are there.
"""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpnet.bench.bed import QUEUE_LENGTH, Wire
from mpnet.bench.case import Case
from mpnet.guest.stream import Stream
from mpnet.jit.compile import compiled
from mpnet.jit.syscalls import sendmmsg
from mpnet.virtio.net_header import LEGACY_BYTES

_SOL_PACKET, _PACKET_VNET_HDR = 263, 15
_MMSGHDR = struct.Struct("<QIxxxxQQQQixxxxIxxxx")
_IOVEC = struct.Struct("<QQ")
_BURST = 32
_FRAMES_WINDOW = QUEUE_LENGTH // 4
"""Segments under way at most: a TAP that takes no offloaded frames queues each for itself."""
_PATIENCE = 1 << 11
"""Turns without progress after which what is under way counts as lost."""

STATE = np.dtype(
    [
        ("fd", "i8"),
        ("messages", "i8"),  # address of the first struct mmsghdr
        ("count", "i8"),
        ("next", "i8"),
        ("payload", "i8"),  # bytes of a frame's
        ("window", "i8"),  # bytes of payload under way at most
        ("burst", "i8"),
        ("sent", "i8"),  # bytes of payload, less what was given up for lost
        ("lost", "i8"),  # bytes of payload that were
        ("received", "i8"),  # bytes of payload the other side had at last look
        ("stuck", "i8"),  # looks without progress
    ]
)


class Generator(NamedTuple):
    """Frames and where they go.

    Attributes:
        state: one record of ``STATE``, shape ``(1,)``.
        memory: frames, iovecs and messages, which ``state`` points into.
    """

    state: Any
    memory: tuple[NDArray[np.uint8], ...]


@contextmanager
def generator(wire: Wire, case: Case) -> Iterator[Generator]:
    """A frame of each flow of a case, to be sent into its TAP in turn."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        # PACKET_QDISC_BYPASS would drop the frames that the kernel has to segment for a device.
        sock.bind((wire.name, 0))
        stream = case.stream(wire)
        memory = _messages([stream.header().pack(LEGACY_BYTES) + frame for frame in frames(stream)])
        state = np.zeros(1, STATE).view(np.recarray)
        record = state[0]
        record.fd, record.messages, record.count = sock.fileno(), memory[-1].ctypes.data, stream.flows
        record.burst = min(_BURST, stream.flows)
        record.payload = stream.segments * stream.segment_bytes
        record.window = _FRAMES_WINDOW * stream.segment_bytes
        yield Generator(state, memory)


def frames(stream: Stream) -> Iterator[bytes]:
    """The first frame of each of a stream's flows."""
    frame = stream.frame()
    port, mark = stream.transport_at, stream.payload_at
    for flow in range(stream.flows):
        number = (stream.first_port + flow).to_bytes(2, "big")
        opposite = (stream.first_port + flow ^ 0xFFFF).to_bytes(2, "big")
        # Each segment's mark has the port's complement, which keeps the checksum (mpnet.guest.stream).
        whole = bytearray(frame)
        whole[port : port + 2] = number
        for place in range(mark + 12, len(frame), stream.segment_bytes):
            whole[place : place + 2] = opposite
        yield bytes(whole)


def _messages(contents: list[bytes]) -> tuple[NDArray[np.uint8], ...]:
    """Frames, an iovec for each and a struct mmsghdr for each."""
    data = np.frombuffer(b"".join(contents), np.uint8)
    places = np.cumsum([0, *map(len, contents)])
    address = int(data.ctypes.data)
    pairs = zip(places, contents, strict=False)
    iovecs = np.frombuffer(
        b"".join(_IOVEC.pack(address + int(place), len(frame)) for place, frame in pairs), np.uint8
    )
    first = int(iovecs.ctypes.data)
    headers = [_MMSGHDR.pack(0, 0, first + _IOVEC.size * n, 1, 0, 0, 0, 0) for n in range(len(contents))]
    return data, iovecs, np.frombuffer(b"".join(headers), np.uint8).copy()


@compiled
def generate(sender: Generator, received: int) -> int:
    """Send up to a burst, if the window lets; ``received`` is the payload the other side has had. How many."""
    state = sender.state[0]
    if received != state.received:
        state.received = received
        state.stuck = 0
    if state.sent - received > state.window - state.burst * state.payload:
        state.stuck += 1
        if state.stuck > _PATIENCE:
            state.lost += state.sent - received
            state.sent = received
            state.stuck = 0
        return 0
    count = min(state.burst, state.count - state.next)
    sent = sendmmsg(state.fd, state.messages + 64 * state.next, count)
    if sent <= 0:
        return 0
    state.sent += sent * state.payload
    state.next = state.next + sent if state.next + sent < state.count else 0
    return sent


@compiled
def send(sender: Generator, count: int) -> int:
    """Send ``count`` frames, as far as they are taken; how many were."""
    state = sender.state[0]
    done = 0
    while done < count:
        sent = sendmmsg(
            state.fd, state.messages + 64 * state.next, min(state.burst, state.count - state.next, count - done)
        )
        if sent <= 0:
            break
        done += sent
        state.next = state.next + sent if state.next + sent < state.count else 0
    return done
