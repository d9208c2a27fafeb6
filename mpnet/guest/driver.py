"""The embedded driver: a virtio-net driver in this process, attached to a device over vhost-user."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from mpnet.errors import MpnetError, ProtocolError
from mpnet.guest.chain import PLAIN, Layout
from mpnet.guest.control_queue import ControlQueue
from mpnet.guest.frame import Frame
from mpnet.guest.memory import Backing, GuestMemory
from mpnet.guest.queue import Queue
from mpnet.guest.receiver import Receiver
from mpnet.guest.sender import Sender
from mpnet.guest.session import Session
from mpnet.guest.virtqueue import kick
from mpnet.vhost_user.messages import ProtocolFeature, Request
from mpnet.virtio.config_space import CONFIG_SIZE, NetConfig
from mpnet.virtio.features import Feature, has, mask
from mpnet.virtio.net_header import BYTES, LEGACY_BYTES

DEFAULT_FEATURES = mask(
    Feature.VERSION_1,
    Feature.CSUM,
    Feature.GUEST_CSUM,
    Feature.MTU,
    Feature.MAC,
    Feature.MRG_RXBUF,
    Feature.STATUS,
    Feature.MQ,
    Feature.RING_INDIRECT_DESC,
    Feature.RING_EVENT_IDX,
)
"""What a driver asks for unless told otherwise: no segmentation offload, so that frames fit one buffer."""
_MEMORY_BYTES = 64 << 20
_GUEST_GSO = mask(
    Feature.GUEST_TSO4, Feature.GUEST_TSO6, Feature.GUEST_UFO, Feature.GUEST_USO4, Feature.GUEST_USO6
)


class Status(enum.IntFlag):
    """Steps of initialisation the driver tells the device of (VIRTIO 2.1)."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8


_NEGOTIATED = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What the driver asks for.

    Args:
        queue_pairs: pairs to set up and enable.
        ring_size: descriptors of each ring; without RING_PACKED a power of two.
        features: virtio features wanted; those the device offers are negotiated.
        memory: bytes of each region of guest memory.
        backing: what guest memory is.
        gap: bytes of unbacked guest address space between regions.
        polled: no eventfds: device and driver poll.
        control_queue: set up the control queue too, for a device that serves it.
    """

    queue_pairs: int = 1
    ring_size: int = 256
    features: int = DEFAULT_FEATURES
    memory: tuple[int, ...] = (_MEMORY_BYTES,)
    backing: Backing = "memfd"
    gap: int = 0
    polled: bool = False
    control_queue: bool = False


class QueuePair:
    """An rx and a tx queue; ``receiver`` and ``sender`` take memory when first used, and then own their queue."""

    def __init__(self, rx: Queue, tx: Queue, features: int) -> None:
        self.rx = rx
        self.tx = tx
        self.features = features

    @property
    def header_bytes(self) -> int:
        """Bytes of the virtio-net header (VIRTIO 5.1.6.1)."""
        return BYTES if self.features & mask(Feature.VERSION_1, Feature.MRG_RXBUF) else LEGACY_BYTES

    @property
    def any_frame_bytes(self) -> int:
        """Bytes of an rx buffer that holds any frame there can be, header included (VIRTIO 5.1.6.3.1)."""
        return (65550 if self.features & _GUEST_GSO else 1514) + self.header_bytes

    @cached_property
    def sender(self) -> Sender:
        """Exact sending on the tx queue."""
        return Sender(self.tx, self.header_bytes)

    @cached_property
    def receiver(self) -> Receiver:
        """Exact receiving on the rx queue."""
        return Receiver(self.rx, self.header_bytes, mergeable=has(self.features, Feature.MRG_RXBUF))


class Driver:
    """A started virtio-net driver.

    Args:
        session: a fresh connection to the back-end; the driver owns it.
        setup: what to ask for.

    Attributes:
        memory: guest memory, shared with the back-end.
        features: virtio features negotiated.
        config: the device's configuration space; None where the back-end does not show it.
        pairs: the queue pairs, by number.
        control: the control queue, if asked for.

    Raises:
        ProtocolError: the back-end refused a request.
        MpnetError: it serves fewer queue pairs than asked for.
    """

    def __init__(self, session: Session, setup: Setup) -> None:
        self.session = session
        self.setup = setup
        self.config: NetConfig | None = None
        self.features = 0
        self.pairs: list[QueuePair] = []
        self.control: ControlQueue | None = None
        self.memory = GuestMemory(setup.memory, setup.backing, gap=setup.gap)
        try:
            self._negotiate()
            self._make_queues()
            self._start()
        except BaseException:
            self.close()
            raise

    @classmethod
    def connect(cls, path: str | Path, setup: Setup, seconds: float = 30.0) -> Self:
        """Attach to the back-end that listens, or soon will, at ``path``.

        Raises:
            MpnetError: nobody listens within ``seconds``, or as the constructor.
        """
        return cls(Session.connect(path, seconds), setup)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def queues(self) -> list[Queue]:
        """Every queue, in order of ring number."""
        pairs = [queue for pair in self.pairs for queue in (pair.rx, pair.tx)]
        return pairs if self.control is None else [*pairs, self.control.queue]

    def close(self) -> None:
        """Hang up and give everything back; no thread may be at work on a queue."""
        self.session.close()
        for queue in self.queues:
            queue.close()
        self.memory.close()

    def _negotiate(self) -> None:
        front = self.session.frontend
        self.session.run(front.negotiate(self.setup.features))
        self.features = front.features
        if front.queue_pairs < self.setup.queue_pairs:
            raise MpnetError(
                f"{self.setup.queue_pairs} queue pairs were asked for, the device serves {front.queue_pairs}",
                f"ask for at most {front.queue_pairs}, or start the device with more",
            )
        if front.negotiated(ProtocolFeature.CONFIG):
            data = self.session.ask(front.get_config(0, CONFIG_SIZE))
            assert isinstance(data, bytes)
            self.config = NetConfig.unpack(data)

    def _make_queues(self) -> None:
        for number in range(self.setup.queue_pairs):
            self.pairs.append(QueuePair(self._queue(2 * number), self._queue(2 * number + 1), self.features))
        if self.setup.control_queue:
            # Behind the pairs the device has, not those in use (VIRTIO 5.1.2).
            multi = has(self.features, Feature.MQ) or has(self.features, Feature.RSS)
            self.control = ControlQueue(self._queue(2 * self.session.frontend.queue_pairs if multi else 2))

    def _queue(self, index: int) -> Queue:
        setup = self.setup
        return Queue(self.memory, index, setup.ring_size, features=self.features, polled=setup.polled)

    def _start(self) -> None:
        self.session.run(self.session.frontend.share_memory(self.memory.regions))
        self._tell(_NEGOTIATED)
        for queue in self.queues:
            self.session.run(self.session.frontend.start_ring(queue.ring))
        self._tell(_NEGOTIATED | Status.DRIVER_OK)
        for queue in self.queues:
            kick(queue.virtqueue)  # what lies in the ring from before was kicked to a back-end that is gone

    def _tell(self, status: Status) -> None:
        front = self.session.frontend
        if front.negotiated(ProtocolFeature.STATUS):
            self.session.ask(front.set_u64(Request.SET_STATUS, status))

    def stop(self) -> None:
        """Stop every ring; once this returns, the device touches none of them. ``start`` goes on from there."""
        for queue in self.queues:
            self.session.run(self.session.frontend.stop_ring(queue.ring))

    def start(self) -> None:
        """Start every ring where ``stop`` left it."""
        self._start()

    def enable(self, pair: int, *, enabled: bool) -> None:
        """Enable or disable the rings of a pair, as the front-end of a guest with fewer pairs in use does."""
        for queue in (self.pairs[pair].rx, self.pairs[pair].tx):
            queue.ring.enabled = enabled
            front = self.session.frontend
            self.session.ask(front.set_vring_enable(queue.ring.index, enable=enabled))

    def reconnect(self, session: Session) -> None:
        """Go on with another back-end, after the last one went away without being asked to stop.

        Raises:
            ProtocolError: it does not offer the features in use.
        """
        self.session.close()
        self.session = session
        session.run(session.frontend.negotiate(self.features))
        if session.frontend.features != self.features:
            missing = self.features & ~session.frontend.features
            raise ProtocolError(
                f"the back-end that took over offers no feature bits {missing:#x}, which are in use"
            )
        for queue in self.queues:
            queue.resume_base()
        self._start()

    def send(self, pair: int, frames: Sequence[Frame | bytes], layout: Layout = PLAIN) -> None:
        """Send frames on one pair and wait until the device has used them; bytes get a header of zeros.

        Raises:
            MpnetError: as ``Sender.send``.
        """
        whole = [frame if isinstance(frame, Frame) else Frame(frame) for frame in frames]
        self.pairs[pair].sender.send(whole, layout)

    def post(self, pair: int, size: int = 0, count: int = 0, layout: Layout = PLAIN) -> int:
        """Give the device rx buffers of ``size`` bytes, header included; return how many.

        0 for ``size`` means one that holds any frame, 0 for ``count`` as many as fit.
        """
        target = self.pairs[pair]
        return target.receiver.post(size or target.any_frame_bytes, count or self.setup.ring_size, layout)

    def receive(self, pair: int, count: int = 1, seconds: float = 30.0) -> list[Frame]:
        """Wait for ``count`` frames on one pair; return what came within ``seconds``. ``post`` must come first.

        Raises:
            MpnetError: as ``Receiver.receive``.
        """
        return self.pairs[pair].receiver.receive(count, seconds)
