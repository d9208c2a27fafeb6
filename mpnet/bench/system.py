"""What a system is to the bench, whatever it is made of."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from mpnet.bench.bed import NO_WIRE, Bed, Wire
from mpnet.bench.case import Case
from mpnet.guest.driver import QueuePair

Turn: TypeAlias = Callable[[float], dict[str, float]]
"""Do a case's work for about so many seconds; what came of it by figure, the name "" for the case's only one."""


class System(Protocol):
    """Something that cases are run on.

    Attributes:
        name: as people type it.
    """

    name: str

    def absent(self) -> str:
        """Why it cannot be run on this machine; empty where it can."""

    def version(self) -> str:
        """What it is that is measured, on one line; only asked where it is not absent."""

    def serves(self, case: Case) -> bool:
        """Whether it can do a case's work at all."""

    def open(self, bed: Bed, case: Case) -> AbstractContextManager[Turn]:
        """Start it for a case; it is idle between turns, and gone at the end of the block.

        Raises:
            MpnetError: it did not start.
        """


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A virtio-net device that waits for a driver.

    Attributes:
        path: its vhost-user socket.
        family: gives the ids of its processes; those that move packets first, in order of queue pair.
        wire: its TAP; ``NO_WIRE`` where it has none.
        wake: called before each turn.
        sleep: called after each turn.
        segment: name of its counters in shared memory; empty where it is not mpnet's.
    """

    path: Path
    family: Callable[[], list[int]]
    wire: Wire = NO_WIRE
    wake: Callable[[], None] = field(default=lambda: None)
    sleep: Callable[[], None] = field(default=lambda: None)
    segment: str = ""


@dataclass(frozen=True, slots=True)
class Device:
    """A virtio-net device with the embedded driver attached.

    Attributes:
        wire: its TAP; ``NO_WIRE`` where it has none.
        pairs: its queue pairs, started.
        family: gives the ids of its processes; those that move packets first, in order of queue pair.
        wake: called before each turn.
        sleep: called after each turn.
        segment: name of its counters in shared memory; empty where it is not mpnet's.
    """

    wire: Wire
    pairs: list[QueuePair]
    family: Callable[[], list[int]]
    wake: Callable[[], None] = field(default=lambda: None)
    sleep: Callable[[], None] = field(default=lambda: None)
    segment: str = ""
