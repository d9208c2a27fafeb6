"""What a device's workers shall be serving: the one place it is written down.

Starting a worker, replacing it and moving its queue pairs all send the same messages, made from here. File
descriptors are not owned here: the vhost-user machine and the TAP own them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from mpnet.config.device import TAP
from mpnet.rpc.channel import MAX_FDS
from mpnet.rpc.worker import AttachPair, Region, Request, SetMemory, SetPolling, SetRing, TraceBursts
from mpnet.vhost_user.effects import MemoryRegion

Errand = tuple[Request, list[int]]
"""A message and the file descriptors that go with it."""


@dataclass(frozen=True, slots=True)
class RingSetting:
    """A started ring.

    Attributes:
        number: in the segment: 2q and 2q + 1 are queue pair q's, the last is the control queue.
        size: descriptors.
        addresses: the front-end's, of the descriptor table, the available and the used ring.
        features: those negotiated.
        enabled: as SET_VRING_ENABLE and the driver's number of queue pairs have it.
        fds: kick, call and error; None where there is none.
        base: where to begin, until a worker has taken it; then the ring state in the segment says.
        coalesce: several frames of a flow may become one on their way to the TAP.
        segment: a frame of the TAP that the driver does not take becomes several.
    """

    number: int
    size: int
    addresses: tuple[int, int, int]
    features: int
    enabled: bool
    fds: tuple[int | None, int | None, int | None]
    base: int | None = None
    coalesce: bool = False
    segment: bool = False

    def errand(self) -> Errand:
        """The message that has a worker serve the ring so."""
        descriptor, avail, used = self.addresses
        kick, call, err = (fd is not None for fd in self.fds)
        message = SetRing(
            index=self.number,
            size=self.size,
            descriptor_address=descriptor,
            avail_address=avail,
            used_address=used,
            features=self.features,
            enabled=self.enabled,
            kick=kick,
            call=call,
            err=err,
            coalesce=self.coalesce,
            segment=self.segment,
            base=self.base,
        )
        return message, [fd for fd in self.fds if fd is not None]


@dataclass(slots=True)
class Desired:
    """Memory, queue pairs and rings of one device.

    Attributes:
        tap_fds: the TAP's queues, by queue pair; None for each with a back-end that has no TAP.
        backend: what is behind them, as ``config.device.BACKENDS`` has it.
        regions: the memory table.
        rings: started rings by number.
        poll_us: how long a worker may go on looking for work before it sleeps.
        trace_bursts: workers trace every burst.
        capture: what has workers copy frames, while somebody captures them.
    """

    tap_fds: Sequence[int | None]
    backend: str = TAP
    regions: tuple[MemoryRegion, ...] = ()
    rings: dict[int, RingSetting] = field(default_factory=dict)
    poll_us: int = 0
    trace_bursts: bool = False
    capture: Errand | None = None

    @property
    def control_ring(self) -> int:
        """The control queue's number."""
        return 2 * len(self.tap_fds)

    def pair_of(self, number: int) -> int:
        """The queue pair whose worker serves ring ``number``: the control queue goes with pair 0."""
        return 0 if number == self.control_ring else number // 2

    def memory_errands(self) -> list[Errand]:
        """The messages with the memory table, in order: one, unless it is very long."""
        parts = [self.regions[begin : begin + MAX_FDS] for begin in range(0, len(self.regions), MAX_FDS)] or [()]
        return [
            (
                SetMemory(
                    [Region(part.guest_address, part.size, part.user_address, part.offset) for part in regions],
                    first=number == 0,
                    last=number == len(parts) - 1,
                ),
                [region.fd for region in regions],
            )
            for number, regions in enumerate(parts)
        ]

    def polling_errand(self) -> Errand:
        """The message with the budget for polling."""
        return SetPolling(self.poll_us), []

    def pair_errands(self, pair: int) -> Iterator[Errand]:
        """What hands a queue pair with its started rings to a worker that has the memory."""
        tap_fd = self.tap_fds[pair]
        yield AttachPair(pair, self.backend), [] if tap_fd is None else [tap_fd]
        for setting in list(self.rings.values()):
            if self.pair_of(setting.number) == pair:
                yield setting.errand()

    def errands(self, pairs: Iterable[int]) -> Iterator[Errand]:
        """What makes an empty worker serve ``pairs``."""
        yield from self.memory_errands()
        if self.poll_us:
            yield self.polling_errand()
        if self.trace_bursts:
            yield TraceBursts(on=True), []
        if self.capture:
            yield self.capture
        for pair in pairs:
            yield from self.pair_errands(pair)
