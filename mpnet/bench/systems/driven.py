"""What all systems with a device have in common: the embedded driver does the work."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from mpnet.bench.bed import Bed
from mpnet.bench.case import Case
from mpnet.bench.idle import idle
from mpnet.bench.ping import ping_pong
from mpnet.bench.scale import scale
from mpnet.bench.system import Device, Turn
from mpnet.bench.work import work


class Driven(ABC):
    """A system that makes a device."""

    @abstractmethod
    def device(self, bed: Bed, case: Case) -> AbstractContextManager[Device]:
        """Start a device for a case, with the driver attached."""

    @contextmanager
    def open(self, bed: Bed, case: Case) -> Iterator[Turn]:
        """As of ``System``."""
        with self.device(bed, case) as device, _work(bed, device, case) as turn:

            def awake(seconds: float) -> dict[str, float]:
                device.wake()
                try:
                    return turn(seconds)
                finally:
                    device.sleep()

            device.sleep()
            yield awake


def _work(bed: Bed, device: Device, case: Case) -> AbstractContextManager[Turn]:
    if case.kind == "rtt":
        return ping_pong(device, case)
    if case.kind == "scale":
        return scale(bed, device, case)
    if case.kind == "idle":
        return idle(device, case)
    return work(device, case)
