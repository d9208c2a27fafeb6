"""DPDK's testpmd as the back-end: net_vhost towards the driver, net_tap towards the host, one processor.

Its TAP has no virtio-net headers, and it forwards frames as they are: it takes no part in segmentation offload.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyroute2 import IPRoute

from mpnet.bench.bed import NO_WIRE, Bed
from mpnet.bench.case import RINGS_ALONE, Case
from mpnet.bench.child import Child, absent
from mpnet.bench.system import Endpoint
from mpnet.bench.systems.driven import Driven
from mpnet.bench.testpmd import COUNT_WORK, PROGRAM, START_SECONDS, Forwarder, testpmd, worked_ns
from mpnet.errors import MpnetError
from mpnet.guest import parts
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
        return f"dpdk-dev {parts.version('dpdk')}"

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
        """Start testpmd. With its vhost port alone it frees what it receives, or sends it back.

        It polls without a rest, so that it is to be stopped between turns.
        """
        path = bed.path("dpdk.sock")
        path.unlink(missing_ok=True)
        alone = case.kind in RINGS_ALONE
        vhost = f"net_vhost0,iface={path},queues={case.queue_pairs}"
        forwarder = Forwarder(
            name="dpdk",
            ports=[vhost] if alone else [vhost, f"net_tap0,iface={_TAP}"],
            cpus=[bed.device_cpu],
            mode="rxonly" if alone and not case.echo else "io",
            queue_pairs=case.queue_pairs,
            options=COUNT_WORK,
        )
        with testpmd(bed, forwarder) as program, IPRoute() as ip:
            _wait(program, path.exists if alone else lambda: bool(ip.link_lookup(ifname=_TAP)))
            wire = NO_WIRE if alone else bed.wire(_TAP)
            yield Endpoint(
                path,
                lambda: [program.process.pid],
                lambda: worked_ns(program),
                wire,
                program.wake,
                program.sleep,
            )


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
