"""DPDK's driver as the guest: a testpmd whose virtio-user port fills, or empties, all queue pairs of a device."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from pyroute2 import IPRoute

from mpnet.bench.bed import Bed, Wire
from mpnet.bench.case import Case
from mpnet.bench.child import affinity
from mpnet.bench.environment import schedule
from mpnet.bench.generator import Generator, generate, generator
from mpnet.bench.system import Endpoint
from mpnet.bench.testpmd import Forwarder, Telemetry, testpmd, virtio_user
from mpnet.experiment.moved import Moved, arrived, figures, offered
from mpnet.experiment.work import Done
from mpnet.virtio.features import Feature, has

_TARGET_MAC = "00:01:02:03:04:01"
"""Whom testpmd's generator of flows sends to, whatever it is told."""
_CHECKSUM_BYTES = 4
"""Of Ethernet's trailer, which that generator takes off the length it is asked for."""
_MOVING_SECONDS = 0.02


class VirtioUser:
    """The traffic of one trial; made by ``driving``.

    Args:
        endpoint: the device.
        case: what is sent.
        packets: gives what the driver has received and sent so far.
        program: id of testpmd's process.
        sender: of the host; None where it sends nothing.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        case: Case,
        packets: Callable[[], tuple[int, int]],
        program: int,
        sender: Generator | None,
    ) -> None:
        self._wire = endpoint.wire
        self._case = case
        self._packets = packets
        self._program = program
        self._sender = sender
        self._payload = replace(case, kind="tx").stream(endpoint.wire).segment_bytes

    def run(self, seconds: float) -> Done:
        """Let it go on for so long; the host sends meanwhile, if it does."""
        before, (ran, waited), started = self._moved(), self._schedule(), time.monotonic()
        self._feed(started + seconds)
        now_ran, now_waited = self._schedule()
        moved, took = self._moved().since(before), time.monotonic() - started
        found = figures(moved, took, self._case, self._wire, receives=self._case.echo or self._sender is not None)
        wait = (now_waited - waited) / max(1, now_ran - ran + now_waited - waited)
        return Done(took, found["pps"] * took, wait, found)

    def feed_a_moment(self) -> None:
        """Have the host send for a moment, if it does at all."""
        self._feed(time.monotonic() + _MOVING_SECONDS)

    def _moved(self) -> Moved:
        received, sent = self._packets()
        return Moved(sent, arrived(self._wire), offered(self._sender), received * self._payload)

    def _schedule(self) -> tuple[int, int]:
        """Nanoseconds that the driver's threads have run, and waited to run."""
        each = [schedule(task) for task in Path(f"/proc/{self._program}/task").iterdir()]
        return sum(ran for ran, _ in each), sum(waited for _, waited in each)

    def _feed(self, end: float) -> None:
        if self._sender is None:
            time.sleep(max(0.0, end - time.monotonic()))
            return
        while time.monotonic() < end:
            # What the device has taken from the TAP makes room for more: the driver's own count is far away.
            if not generate(self._sender, self._wire.taken() * self._payload):
                os.sched_yield()


@contextmanager
def driving(bed: Bed, endpoint: Endpoint, way: str, case: Case, ring_size: int) -> Iterator[VirtioUser]:
    """The traffic of a trial.

    Args:
        bed: says which processors drive; the last one is the host's where it sends and there are several.
        endpoint: all its pairs are driven.
        way: "tx", "rx" or "both".
        case: says what is sent; each pair sends its share of the flows.
        ring_size: descriptors of each ring.
    """
    host_sends = way != "tx" and bool(endpoint.wire.name)
    cpus = bed.driver_cpus[: -1 if host_sends and len(bed.driver_cpus) > 1 else None]
    forwarder = Forwarder(
        name="driver",
        ports=[
            virtio_user(
                endpoint.path,
                queue_pairs=case.queue_pairs,
                ring_size=ring_size,
                packed=has(case.features, Feature.RING_PACKED),
                mergeable=has(case.features, Feature.MRG_RXBUF),
            )
        ],
        cpus=cpus[: case.queue_pairs],
        mode="rxonly" if way == "rx" else "flowgen",
        queue_pairs=case.queue_pairs,
        ring_size=ring_size,
        # Each queue pair's generator sends so many.
        options=[
            f"--txpkts={case.frame_bytes + _CHECKSUM_BYTES}",
            f"--flowgen-flows={max(1, case.flows // case.queue_pairs)}",
        ],
    )
    with ExitStack() as stack:
        if endpoint.wire.name:
            _be_the_target(endpoint.wire)
        sender = stack.enter_context(generator(endpoint.wire, replace(case, kind="rx"))) if host_sends else None
        program = stack.enter_context(testpmd(bed, forwarder))
        telemetry = stack.enter_context(Telemetry(bed, forwarder, program))
        stack.enter_context(affinity({bed.driver_cpus[-1]}))
        work = VirtioUser(endpoint, case, telemetry.packets, program.process.pid, sender)
        telemetry.wait(work.feed_a_moment)
        yield work


def _be_the_target(wire: Wire) -> None:
    """Have the host take what testpmd sends: frames for somebody else would be dropped early, at less cost."""
    with IPRoute() as ip:
        ip.link("set", index=wire.index, address=_TARGET_MAC)
