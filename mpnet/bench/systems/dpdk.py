"""DPDK's testpmd as the back-end: net_vhost towards the driver, net_tap towards the host, one processor.

Its TAP has no virtio-net headers, and it forwards frames as they are: it takes no part in segmentation offload.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pyroute2 import IPRoute

from mpnet.bench.bed import Bed
from mpnet.bench.case import RING_SIZE, RINGS_ALONE, Case
from mpnet.bench.child import Child, absent, said
from mpnet.bench.system import Device, Endpoint
from mpnet.bench.systems.driven import Driven
from mpnet.bench.testpmd import COUNT_WORK, PROGRAM, START_SECONDS, Forwarder, testpmd, worked_ns
from mpnet.errors import MpnetError
from mpnet.guest import debian
from mpnet.guest.driver import Driver, Setup
from mpnet.virtio.features import Feature, mask

_TAP = "dpdk0"
_LOOK_SECONDS = 0.05


class Dpdk(Driven):
    """testpmd between a vhost port and a TAP port."""

    name = "dpdk"

    def absent(self) -> str:
        """The program's package, where it is missing."""
        return absent(PROGRAM)

    def version(self) -> str:
        """Of its package: the program says it only when it runs."""
        return said("dpkg-query", "-W", debian.PROGRAM_PACKAGES[PROGRAM]).replace("\t", " ")

    def serves(self, case: Case) -> bool:
        """Plain frames on one queue pair, the kernel having segmented; it polls whatever the driver does."""
        if case.kind == "rx":
            return not case.features & mask(Feature.GUEST_TSO4, Feature.GUEST_USO4)
        return (
            (case.kind == "tx" and case.segments == 1)
            or (case.kind == "rtt" and case.polled)
            or (case.kind in RINGS_ALONE)
        )

    @contextmanager
    def endpoint(self, bed: Bed, case: Case) -> Iterator[Endpoint]:
        """Start testpmd with its vhost port alone: it frees what it receives, or sends it back."""
        path = _socket(bed)
        mode = "io" if case.echo else "rxonly"
        forwarder = Forwarder(
            name="dpdk", ports=[_vhost(path)], cpu=bed.device_cpu, mode=mode, options=COUNT_WORK
        )
        with testpmd(bed, forwarder) as program:
            _wait(program, path.exists)
            yield Endpoint(path, lambda: worked_ns(program), program.wake, program.sleep)

    @contextmanager
    def device(self, bed: Bed, case: Case) -> Iterator[Device]:
        """Start testpmd and attach; it polls without a rest, so that it is stopped between turns."""
        path = _socket(bed)
        forwarder = Forwarder(
            name="dpdk", ports=[_vhost(path), f"net_tap0,iface={_TAP}"], cpu=bed.device_cpu, mode="io"
        )
        with testpmd(bed, forwarder) as program, IPRoute() as ip:
            _wait(program, lambda: bool(ip.link_lookup(ifname=_TAP)))
            wire = bed.wire(_TAP)
            with Driver.connect(path, Setup(ring_size=RING_SIZE, features=case.features)) as driver:
                yield Device(wire, driver.pairs, lambda: [program.process.pid], program.wake, program.sleep)


def _socket(bed: Bed) -> Path:
    path = bed.path("dpdk.sock")
    path.unlink(missing_ok=True)
    return path


def _vhost(path: Path) -> str:
    return f"net_vhost0,iface={path},queues=1"


def _wait(program: Child, ready: Callable[[], bool]) -> None:
    """Wait until it is ready for a driver.

    Raises:
        MpnetError: testpmd ended, or is not in time.
    """
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        program.check()
        if time.monotonic() > deadline:
            raise MpnetError(f"testpmd is not ready after {START_SECONDS:.0f} s", program.log_end())
        time.sleep(_LOOK_SECONDS)
