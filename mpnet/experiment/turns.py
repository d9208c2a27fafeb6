"""A case of the bench as the work of trials: a turn each."""

import time

from mpnet.bench.bed import Bed
from mpnet.bench.case import RINGS_ALONE, Case
from mpnet.bench.distance import distance_ns
from mpnet.bench.environment import schedule
from mpnet.bench.system import Turn
from mpnet.experiment.work import Done

_AT_FULL_SPEED = ("tx", "rx", "ring")
"""Kinds of cases in which the driver is never to wait for anything."""
_HAND_IN_HAND = ("tx", "rx", *RINGS_ALONE)
"""Kinds in which driver and device pass each other cache lines all the while."""


class Turns:
    """Turns of one system; it rests between them."""

    def __init__(self, turn: Turn, case: Case, bed: Bed) -> None:
        self._turn = turn
        self._case = case
        self._bed = bed

    def run(self, seconds: float) -> Done:
        """Have a turn.

        Raises:
            MpnetError: the system did something that none may.
        """
        distance = self._distance()
        (ran, waited), started = schedule(), time.monotonic()
        came = self._turn(seconds)
        took, (now_ran, now_waited) = time.monotonic() - started, schedule()
        wait = None
        if self._case.kind in _AT_FULL_SPEED:
            wait = (now_waited - waited) / max(1, now_ran - ran + now_waited - waited)
        figures = {each.measure: came[each.name] for each in self._case.figures if each.name in came}
        distances = [each for each in (distance, self._distance()) if each is not None]
        return Done(took, 0, wait, figures, max(distances, default=None))

    def _distance(self) -> float | None:
        """Between driver and device, which rest, where a case hangs on it."""
        if self._case.kind not in _HAND_IN_HAND:
            return None
        return distance_ns(self._bed.driver_cpu, self._bed.device_cpu)
