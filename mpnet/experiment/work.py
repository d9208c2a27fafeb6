"""What is done in a trial, as its runner sees it."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Done:
    """What came of it.

    Attributes:
        seconds: it took.
        packets: moved, both ways.
        wait: share of the driver's time in which something else had its processor.
        figures: by name, see ``record.FIGURES``.
    """

    seconds: float
    packets: float
    wait: float
    figures: dict[str, float]


class Work(Protocol):
    """Traffic that can be made again and again."""

    def run(self, seconds: float) -> Done:
        """Make it for about so long.

        Raises:
            MpnetError: the device did something that no device may.
        """
