"""How long to wait before the next replacement of a worker that keeps dying."""

FIRST_SECONDS = 0.1
MOST_SECONDS = 1.0
"""To start a worker takes some ten milliseconds of a processor, and while none is there its guest is cut off."""
HEALTHY_SECONDS = 30.0
"""A worker that lived this long is replaced at once, whatever came before."""


class Backoff:
    """Doubles the wait at each death in quick succession; the first replacement does not wait."""

    def __init__(self) -> None:
        self._deaths = 0

    def delay(self, lived_seconds: float) -> float:
        """Note a death; return the seconds to wait.

        Args:
            lived_seconds: from the dead worker's start to its end.
        """
        if lived_seconds >= HEALTHY_SECONDS:
            self._deaths = 0
        self._deaths += 1
        if self._deaths == 1:
            return 0.0
        return float(min(FIRST_SECONDS * 2 ** (self._deaths - 2), MOST_SECONDS))
