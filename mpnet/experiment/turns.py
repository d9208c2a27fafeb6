"""A case of the bench as the work of trials: a turn each."""

import time

from mpnet.bench.case import Case
from mpnet.bench.environment import schedule
from mpnet.bench.system import Turn
from mpnet.experiment.work import Done

_AT_FULL_SPEED = ("tx", "rx", "ring")
"""Kinds of cases in which the driver is never to wait for anything."""


class Turns:
    """Turns of one system; it rests between them."""

    def __init__(self, turn: Turn, case: Case) -> None:
        self._turn = turn
        self._case = case

    def run(self, seconds: float) -> Done:
        """Have a turn.

        Raises:
            MpnetError: the system did something that none may.
        """
        (ran, waited), started = schedule(), time.monotonic()
        came = self._turn(seconds)
        took, (now_ran, now_waited) = time.monotonic() - started, schedule()
        wait = None
        if self._case.kind in _AT_FULL_SPEED:
            wait = (now_waited - waited) / max(1, now_ran - ran + now_waited - waited)
        figures = {each.measure: came[each.name] for each in self._case.figures if each.name in came}
        return Done(took, 0, wait, figures)
