"""What is done in a trial, as its runner sees it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Done:
    """What came of it.

    Attributes:
        seconds: it took.
        packets: moved, both ways; 0 where they are not known.
        wait: share of the driver's time in which something else had its processor; None where it may well wait.
        figures: by name, see ``record.FIGURES``.
        distance_ns: as of ``record.Conditions``.
    """

    seconds: float
    packets: float
    wait: float | None
    figures: dict[str, float]
    distance_ns: float | None = None


class Work(Protocol):
    """Traffic that can be made again and again."""

    def run(self, seconds: float) -> Done:
        """Make it for about so long.

        Raises:
            MpnetError: the device did something that no device may.
        """


@dataclass(frozen=True, slots=True)
class Stand:
    """A system that has been started, and the work on it.

    Attributes:
        work: to be done in each trial.
        family: gives the ids of the device's processes; None where the driver is in one of them too.
        segment: name of the device's counters in shared memory; empty where it has none.
    """

    work: Work
    family: Callable[[], list[int]] | None = None
    segment: str = ""
