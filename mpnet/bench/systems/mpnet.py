"""mpnet itself: ``mpnet run`` as people run it, with the embedded driver attached over vhost-user."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mpnet
from mpnet.bench.bed import GUEST_MAC, Bed, Wire
from mpnet.bench.case import RING_SIZE, Case
from mpnet.bench.child import Child, child
from mpnet.bench.system import Device
from mpnet.bench.systems.driven import Driven
from mpnet.errors import MpnetError
from mpnet.guest.driver import Driver, Setup
from mpnet.rpc.management import Client
from mpnet.virtio.features import Feature, mask

_MPNET = "from mpnet.cli.main import main; main()"
"""The ``mpnet`` of this very installation, wherever its script is."""
_START_SECONDS = 120.0
"""Compiling takes some 20 s, longer on a busy machine."""
_LOOK_SECONDS = 0.02


class Served:
    """A device that ``mpnet run`` serves.

    Attributes:
        name: of the device.
        socket: its vhost-user socket.
        wire: its TAP.
        program: ``mpnet run``.
    """

    def __init__(self, name: str, wire: Wire, folder: Path, program: Child) -> None:
        self.name = name
        self.socket = folder / "mpnet.sock"
        self.wire = wire
        self.program = program
        self._control = folder / "control.sock"

    def wait(self) -> None:
        """Wait until it is served.

        Raises:
            MpnetError: it is not; with the log's last words.
        """
        deadline = time.monotonic() + _START_SECONDS
        while not self._serves():
            self.program.check()
            if time.monotonic() > deadline:
                raise MpnetError(
                    f"'mpnet run' serves nothing after {_START_SECONDS:.0f} s", self.program.log_end()
                )
            time.sleep(_LOOK_SECONDS)

    def _serves(self) -> bool:
        # Its socket comes into being, and listens, some time after it started.
        with suppress(MpnetError), Client(self._control) as client:
            return bool(client.call("device.list"))
        return False

    def workers(self) -> list[int]:
        """Ids of its worker processes, by slot."""
        return [worker["pid"] for worker in self.call("worker.list", device=self.name)]

    def call(self, method: str, **params: Any) -> Any:
        """Ask the control process."""
        with Client(self._control) as client:
            return client.call(method, **params)

    def attach(self, case: Case, queue_pairs: int) -> Driver:
        """Attach the embedded driver; all of the pairs are in use then."""
        features = case.features | (mask(Feature.MQ) if queue_pairs > 1 else 0)
        setup = Setup(
            queue_pairs=queue_pairs, ring_size=RING_SIZE, features=features, memory=(_memory(queue_pairs),)
        )
        return Driver.connect(self.socket, setup)


def _memory(queue_pairs: int) -> int:
    """Bytes of guest memory: buffers for a whole ring of 64 KiB frames, several times over for a few pairs."""
    return (64 << 20) * (1 + min(queue_pairs, 2))


class Mpnet(Driven):
    """This project's device."""

    name = "mpnet"

    def absent(self) -> str:
        """It is always here."""
        return ""

    def version(self) -> str:
        """Of the package."""
        return mpnet.__version__

    def serves(self, case: Case) -> bool:  # noqa: ARG002 - as every system is asked
        """Everything."""
        return True

    @contextmanager
    def run(self, bed: Bed, *, queue_pairs: int, workers: int) -> Iterator[Served]:
        """Serve a device on a TAP of its own; its first worker is on the device's processor, the next beside."""
        # Shared memory has no namespace: the name must be nobody else's.
        name = f"bench{os.getpid()}"
        with bed.tap("mpnet0", queues=queue_pairs) as wire:
            words = (
                f"id={name},tap={wire.name},socket={bed.path('mpnet.sock')},mac={GUEST_MAC.hex(':')},"
                f"queue-pairs={queue_pairs},workers={workers},cpus={_cpus(bed, workers)}"
            )
            command = [sys.executable, "-c", _MPNET, "run", "--control-socket", str(bed.path("control.sock"))]
            cpus = {bed.driver_cpu, bed.device_cpu}
            with child([*command, "--device", words], bed.path("mpnet.log"), cpus, ask_first=True) as program:
                served = Served(name, wire, bed.folder, program)
                served.wait()
                yield served

    @contextmanager
    def device(self, bed: Bed, case: Case) -> Iterator[Device]:
        """One queue pair, attached."""
        with self.run(bed, queue_pairs=1, workers=1) as served, served.attach(case, 1) as driver:
            yield Device(served.wire, driver.pairs, served.workers)


def _cpus(bed: Bed, workers: int) -> str:
    cpus = [bed.device_cpu, bed.driver_cpu][:workers]
    return "+".join(str(cpu) for cpu in dict.fromkeys(cpus))
