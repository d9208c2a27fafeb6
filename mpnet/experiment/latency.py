"""Round trips of single pings between the guest and the host's kernel."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from mpnet.bench.environment import schedule
from mpnet.bench.ping import Pings, pings
from mpnet.bench.system import Device
from mpnet.experiment.record import PERCENTILES
from mpnet.experiment.work import Done

_MOST = 1 << 20
_PATIENCE_SECONDS = 1.0


def trip_figures(nanoseconds: NDArray[np.int64]) -> dict[str, float]:
    """What some round trips come to."""
    trips = np.percentile(nanoseconds, PERCENTILES) / 1000
    found = {f"rtt_p{share:g}_us": float(trip) for share, trip in zip(PERCENTILES, trips, strict=True)}
    return found | {"rtt_count": float(len(nanoseconds))}


class Latency:
    """One ping under way at a time; made by ``pinging``.

    Args:
        run: pings.
        gap_us: between an answer and the next ping; 0 for none.
    """

    def __init__(self, run: Pings, gap_us: int) -> None:
        self._run = run
        self._gap = gap_us / 1e6
        self._times = np.zeros(_MOST, np.int64)

    def run(self, seconds: float) -> Done:
        """Ping for so long.

        Raises:
            MpnetError: a ping was not answered.
        """
        _, waited = schedule()
        started = time.monotonic()
        count = self._apart(started + seconds) if self._gap else self._run(self._times, seconds)
        took = time.monotonic() - started
        # Of all the time, not of the time it ran: a driver that sleeps has to wait a moment at each wake-up.
        wait = (schedule()[1] - waited) / 1e9 / took
        return Done(took, 2 * count, wait, trip_figures(self._times[:count]))

    def _apart(self, end: float) -> int:
        """Ping with a pause before each; how often."""
        count = 0
        while count == 0 or (time.monotonic() < end and count < _MOST):
            time.sleep(self._gap)
            count += self._run(self._times[count : count + 1], _PATIENCE_SECONDS)
        return count


@contextmanager
def pinging(device: Device, *, polled: bool, gap_us: int) -> Iterator[Latency]:
    """Pings on a device's first queue pair."""
    with pings(device, polled=polled) as run:
        yield Latency(run, gap_us)
