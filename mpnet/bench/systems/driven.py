"""What all systems with a device have in common: the embedded driver does the work."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from mpnet.bench.bed import Bed, Wire
from mpnet.bench.case import RINGS_ALONE, Case
from mpnet.bench.idle import idle
from mpnet.bench.linux import linux
from mpnet.bench.ping import ping_pong
from mpnet.bench.ring import ring
from mpnet.bench.scale import scale
from mpnet.bench.system import Device, Endpoint, Turn
from mpnet.bench.work import work
from mpnet.guest.linux.qemu import TapNic, VhostUserNic


class Driven(ABC):
    """A system that makes a device."""

    @abstractmethod
    def device(self, bed: Bed, case: Case) -> AbstractContextManager[Device]:
        """Start a device for a case, with the driver attached."""

    def nic(self, bed: Bed, case: Case) -> AbstractContextManager[tuple[Wire, VhostUserNic | TapNic]]:
        """Have a device ready for a Linux guest: its TAP, and what QEMU is told of it."""
        raise NotImplementedError(f"{self} is behind no Linux guest: {case.name}, {bed.folder}")

    def endpoint(self, bed: Bed, case: Case) -> AbstractContextManager[Endpoint]:
        """Start a device with no TAP for a case, where ``serves`` says that there is one."""
        raise NotImplementedError(f"{self} has no device without a TAP: {case.name}, {bed.folder}")

    @contextmanager
    def open(self, bed: Bed, case: Case) -> Iterator[Turn]:
        """As of ``System``."""
        if case.in_linux:
            with self.nic(bed, case) as (wire, nic), linux(bed, case, wire, nic) as turn:
                yield turn
            return
        with ExitStack() as stack:
            device: Device | Endpoint
            if case.kind in RINGS_ALONE:
                device = stack.enter_context(self.endpoint(bed, case))
                turn = stack.enter_context(ring(bed, device, case))
            else:
                device = stack.enter_context(self.device(bed, case))
                turn = stack.enter_context(_work(bed, device, case))

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
