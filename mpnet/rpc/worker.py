"""What control tells a worker, and what the worker says.

Control sends one request at a time and gets exactly one ``Done`` or ``Failed`` for it. ``RingBroken``,
``ControlCommand``, ``Isolated`` and ``Forbidden`` come unasked. A request carries the whole of what it sets,
not a change: the same message starts a ring, restarts it in a replacement and moves it to another worker.
"""

import msgspec


class Region(msgspec.Struct):
    """A piece of guest memory (vhost-user memory region description)."""

    guest_address: int
    size: int
    user_address: int
    offset: int


class SetMemory(msgspec.Struct, tag=True):
    """The whole memory table; one fd a region, in order. What is mapped already stays mapped.

    A message brings ``channel.MAX_FDS`` fds at most: a longer table comes in parts, and counts with the last one.
    """

    regions: list[Region]
    first: bool = True
    last: bool = True


class AttachPair(msgspec.Struct, tag=True):
    """Serve a queue pair from now on; its fd, with the back-end "tap", is the TAP queue."""

    pair: int
    backend: str = "tap"


class DetachPair(msgspec.Struct, tag=True):
    """Finish the burst, forget the pair's rings and close its fds."""

    pair: int


class SetRing(msgspec.Struct, tag=True):
    """Start a ring, or change a started one.

    The fds are kick, call and err, in this order, as far as ``kick``, ``call`` and ``err`` say that they are
    there. Addresses are the front-end's user addresses, as in SET_VRING_ADDR.
    ``coalesce`` lets the worker make one frame of several of a flow on a tx ring; ``segment`` has it make several
    of one that the driver does not take, on an rx ring: the TAP gives all kinds then.
    ``base`` is where to begin; without it the ring goes on from its state in shared memory.
    """

    index: int
    size: int
    descriptor_address: int
    avail_address: int
    used_address: int
    features: int
    enabled: bool
    kick: bool
    call: bool
    err: bool
    coalesce: bool = False
    segment: bool = False
    base: int | None = None


class StopRing(msgspec.Struct, tag=True):
    """Finish the burst and stop; ``Done.value`` is the index of the next avail entry (GET_VRING_BASE)."""

    index: int


class SetPolling(msgspec.Struct, tag=True):
    """Go on looking for work for up to so long before sleeping; 0 sleeps at once."""

    microseconds: int


class CompleteCommand(msgspec.Struct, tag=True):
    """The answer to a ``ControlCommand``: its ack byte (VIRTIO 5.1.6.5)."""

    ack: int


class SetCapture(msgspec.Struct, tag=True):
    """Copy the frames of ``rings`` to the capture whose fd comes along; without rings and fd copy none any more.

    ``lane_bytes`` and ``snaplen`` are the capture's, as ``segment.capture`` has them.
    """

    rings: list[int] = []
    lane_bytes: int = 0
    snaplen: int = 0


class TraceBursts(msgspec.Struct, tag=True):
    """Put every burst into the trace too, or no more."""

    on: bool


class Shutdown(msgspec.Struct, tag=True):
    """Finish bursts and exit with status 0."""


class Done(msgspec.Struct, tag=True):
    """The request is carried out."""

    value: int = 0


class Failed(msgspec.Struct, tag=True):
    """The request could not be carried out; nothing has changed."""

    problem: str
    remedy: str = ""


class RingBroken(msgspec.Struct, tag=True):
    """The guest broke a ring: ``fault`` is a ``layout.Fault``."""

    index: int
    fault: int


class ControlCommand(msgspec.Struct, tag=True):
    """A command the driver placed in the control queue, header included; no other comes before its answer."""

    data: bytes


class Isolated(msgspec.Struct, tag=True):
    """Said once, before the first request is taken: which stages of its isolation were not possible, and why."""

    missing: dict[str, str]


class Forbidden(msgspec.Struct, tag=True):
    """The worker made a system call that it has not declared, and ends: its name, and the line of Python's."""

    call: str
    where: str


Request = (
    SetMemory
    | AttachPair
    | DetachPair
    | SetRing
    | StopRing
    | SetPolling
    | CompleteCommand
    | TraceBursts
    | SetCapture
    | Shutdown
)
Report = Done | Failed | RingBroken | ControlCommand | Isolated | Forbidden
