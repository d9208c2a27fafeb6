"""What all systems with a device have in common: a driver is attached, and does the work."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from mpnet.bench.bed import GUEST_MAC, Bed, Wire
from mpnet.bench.case import RING_SIZE, RINGS_ALONE, Case
from mpnet.bench.idle import idle
from mpnet.bench.linux import linux
from mpnet.bench.ping import ping_pong
from mpnet.bench.ring import ring
from mpnet.bench.scale import scale
from mpnet.bench.system import Device, Endpoint, Turn
from mpnet.bench.work import work
from mpnet.guest.driver import Driver, Setup
from mpnet.guest.linux.qemu import TapNic, VhostUserNic
from mpnet.virtio.features import Feature, mask

_MEMORY_STEP = 64 << 20
_LEAST_MEMORY = 128 << 20
_AROUND_BYTES = 6144
"""Beside a frame: an rx buffer, and what frames are rounded up to."""


def memory_bytes(case: Case, ring_size: int = RING_SIZE) -> int:
    """Guest memory with room for every buffer of every ring, twice."""
    needed = 2 * case.queue_pairs * ring_size * (case.frame_bytes * case.segments + _AROUND_BYTES)
    return max(_LEAST_MEMORY, -(-needed // _MEMORY_STEP) * _MEMORY_STEP)


@contextmanager
def attached(endpoint: Endpoint, case: Case, ring_size: int = RING_SIZE) -> Iterator[Device]:
    """Attach the embedded driver to a device."""
    setup = Setup(
        queue_pairs=case.queue_pairs,
        ring_size=ring_size,
        features=case.features | (mask(Feature.MQ) if case.queue_pairs > 1 else 0),
        memory=(memory_bytes(case, ring_size),),
    )
    with Driver.connect(endpoint.path, setup) as driver:
        yield Device(
            endpoint.wire, driver.pairs, endpoint.family, endpoint.wake, endpoint.sleep, endpoint.segment
        )


def vhost_user_nic(endpoint: Endpoint, queue_pairs: int) -> VhostUserNic:
    """What QEMU is told of a device, for a Linux guest."""
    return VhostUserNic(socket=str(endpoint.path), mac=GUEST_MAC.hex(":"), queue_pairs=queue_pairs)


class Driven:
    """A system that makes a device."""

    def endpoint(self, bed: Bed, case: Case) -> AbstractContextManager[Endpoint]:
        """Start a device for a case, behind a vhost-user socket; without a TAP for rings alone."""
        raise NotImplementedError(f"{self} is behind no vhost-user socket: {case.name}, {bed.folder}")

    @contextmanager
    def device(self, bed: Bed, case: Case) -> Iterator[Device]:
        """Start a device for a case, with the embedded driver attached."""
        with self.endpoint(bed, case) as endpoint, attached(endpoint, case) as device:
            yield device

    def nic(self, bed: Bed, case: Case) -> AbstractContextManager[tuple[Wire, VhostUserNic | TapNic]]:
        """Have a device ready for a Linux guest: its TAP, and what QEMU is told of it."""
        raise NotImplementedError(f"{self} is behind no Linux guest: {case.name}, {bed.folder}")

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
