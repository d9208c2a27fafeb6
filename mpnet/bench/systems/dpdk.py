"""DPDK's testpmd as the back-end: net_vhost towards the driver, net_tap towards the host, one processor.

Its TAP has no virtio-net headers, and it forwards frames as they are: it takes no part in segmentation offload.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pyroute2 import IPRoute

from mpnet.bench.bed import Bed
from mpnet.bench.case import RING_SIZE, Case
from mpnet.bench.child import Child, child, said
from mpnet.bench.system import Device
from mpnet.bench.systems.driven import Driven
from mpnet.errors import MpnetError
from mpnet.guest import debian
from mpnet.guest.driver import Driver, Setup
from mpnet.virtio.features import Feature, has

_PROGRAM = "dpdk-testpmd"
_TAP = "dpdk0"
_START_SECONDS = 30.0
_LOOK_SECONDS = 0.05


class Dpdk(Driven):
    """testpmd between a vhost port and a TAP port."""

    name = "dpdk"

    def absent(self) -> str:
        """The program's package, where it is missing."""
        try:
            debian.program(_PROGRAM)
        except MpnetError as error:
            return str(error)
        return ""

    def version(self) -> str:
        """Of its package: the program says it only when it runs."""
        return said("dpkg-query", "-W", debian.PROGRAM_PACKAGES[_PROGRAM]).replace("\t", " ")

    def serves(self, case: Case) -> bool:
        """Plain frames on one queue pair, the kernel having segmented; it polls whatever the driver does."""
        if case.kind == "rx" and not has(case.features, Feature.GUEST_TSO4):
            return not has(case.features, Feature.GUEST_USO4)
        return (case.kind == "tx" and case.segments == 1) or (case.kind == "rtt" and case.polled)

    @contextmanager
    def device(self, bed: Bed, case: Case) -> Iterator[Device]:
        """Start testpmd and attach; it polls without a rest, so that it is stopped between turns."""
        path = bed.path("dpdk.sock")
        path.unlink(missing_ok=True)
        with child(_command(bed), bed.path("testpmd.log"), {bed.driver_cpu, bed.device_cpu}) as program:
            _wait(program)
            wire = bed.wire(_TAP)
            with Driver.connect(path, Setup(ring_size=RING_SIZE, features=case.features)) as driver:
                pid = program.process.pid
                try:
                    yield Device(wire, driver.pairs, lambda: [pid], program.wake, program.sleep)
                finally:
                    program.wake()


def _command(bed: Bed) -> list[str]:
    return [
        # Its own files would be left in /var/run/dpdk.
        *("env", f"RUNTIME_DIRECTORY={bed.folder}"),
        str(debian.program(_PROGRAM)),
        # Its buffers lie in plain pages: huge ones are rarely set aside.
        *("--no-pci", "--no-huge", "-m", "512", "--no-telemetry"),
        *("--lcores", f"0@{bed.driver_cpu},1@{bed.device_cpu}", f"--file-prefix={bed.folder.name}"),
        *("--vdev", f"net_vhost0,iface={bed.path('dpdk.sock')},queues=1", "--vdev", f"net_tap0,iface={_TAP}"),
        *("--", "--nb-cores=1", "--forward-mode=io", "--auto-start", "--total-num-mbufs=16384"),
        *("--stats-period=3600", f"--txd={RING_SIZE}", f"--rxd={RING_SIZE}"),
    ]


def _wait(program: Child) -> None:
    """Wait for its TAP.

    Raises:
        MpnetError: testpmd ended, or does not make it in time.
    """
    deadline = time.monotonic() + _START_SECONDS
    with IPRoute() as ip:
        while not ip.link_lookup(ifname=_TAP):
            program.check()
            if time.monotonic() > deadline:
                raise MpnetError(f"testpmd makes no TAP in {_START_SECONDS:.0f} s", program.log_end())
            time.sleep(_LOOK_SECONDS)
