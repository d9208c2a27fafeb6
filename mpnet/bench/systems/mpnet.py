"""mpnet itself: ``mpnet run`` as people run it, with the embedded driver attached over vhost-user."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

import mpnet
from mpnet.bench.bed import GUEST_MAC, NO_WIRE, Bed, Wire
from mpnet.bench.case import RINGS_ALONE, Case
from mpnet.bench.child import Child, child
from mpnet.bench.system import Endpoint
from mpnet.bench.systems.driven import Driven, vhost_user_nic
from mpnet.config.device import ECHO, NULL, TAP
from mpnet.errors import MpnetError
from mpnet.guest.linux.qemu import VhostUserNic
from mpnet.rpc.management import Client
from mpnet.segment.segment import Segment

_MPNET = "from mpnet.cli.main import main; main()"
"""The ``mpnet`` of this very installation, wherever its script is."""
_SILENT_SECONDS = 120.0
"""Without a word in its log: while it compiles it says every few seconds how far it is."""
_LOOK_SECONDS = 0.02
_POLL_US = 200
"""In a case that is polled: more than a wake-up takes, so that the first round trip begins it."""
_GUEST_POLL_US = 1000
"""The same for a stock guest: more than lies between its pings, emulated, with what it does itself meanwhile."""
_RINGS_POLL_US = 50
"""Of a worker whose rings alone are measured: its peer never sleeps."""


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
    def endpoint(self, bed: Bed, case: Case) -> Iterator[Endpoint]:
        """Serve it with a worker for each queue pair, on a TAP of its own or with a back-end that has none."""
        cpus = f"cpus={_cpus(bed, case.queue_pairs)}"
        if case.kind in RINGS_ALONE:
            words, backend = f"{cpus},poll-us={_RINGS_POLL_US}", ECHO if case.echo else NULL
        else:
            poll_us = (_GUEST_POLL_US if case.in_linux else _POLL_US) if case.polled else 0
            words, backend = f"gro=on,{cpus},poll-us={poll_us}", TAP
        service = Service(words=words, queue_pairs=case.queue_pairs, backend=backend)
        with serving(bed, service) as endpoint:
            yield endpoint

    @contextmanager
    def nic(self, bed: Bed, case: Case) -> Iterator[tuple[Wire, VhostUserNic]]:
        """Serve it for a guest."""
        with self.endpoint(bed, case) as endpoint:
            yield endpoint.wire, vhost_user_nic(endpoint, case.queue_pairs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """How a device is served.

    Args:
        words: further words of the device string.
        queue_pairs: it has.
        mtu: of device and TAP.
        backend: what is behind it; only "tap" has a TAP.
    """

    words: str
    queue_pairs: int = 1
    mtu: int = 1500
    backend: str = TAP


@contextmanager
def serving(bed: Bed, service: Service) -> Iterator[Endpoint]:
    """A device of ``mpnet run``, on a TAP of its own if on any."""
    # Shared memory has no namespace: the name must be nobody else's.
    name = f"bench{os.getpid()}"
    with _behind(bed, service) as wire, _run(bed, _words(bed, wire, name, service)) as program:
        socket = bed.path("mpnet.sock")
        yield Endpoint(socket, lambda: _family(name, program), lambda: _worked_ns(name), wire, segment=name)


def _cpus(bed: Bed, queue_pairs: int) -> str:
    return "+".join(str(cpu) for cpu in dict.fromkeys(bed.device_cpus[:queue_pairs]))


def _behind(bed: Bed, service: Service) -> AbstractContextManager[Wire]:
    if service.backend != TAP:
        return nullcontext(NO_WIRE)
    return bed.tap("mpnet0", queues=service.queue_pairs, mtu=service.mtu)


def _words(bed: Bed, wire: Wire, name: str, service: Service) -> str:
    behind = f"tap={wire.name}" if service.backend == TAP else f"backend={service.backend}"
    return (
        f"id={name},{behind},socket={bed.path('mpnet.sock')},mac={GUEST_MAC.hex(':')},"
        f"queue-pairs={service.queue_pairs},mtu={service.mtu},{service.words}"
    )


@contextmanager
def _run(bed: Bed, words: str) -> Iterator[Child]:
    """``mpnet run`` with a device of these words."""
    command = [sys.executable, "-c", _MPNET, "run", "--control-socket", str(control_socket(bed))]
    with child([*command, "--device", words], bed.path("mpnet.log"), bed.cpus, ask_first=True) as program:
        _wait(bed, program)
        yield program


def control_socket(bed: Bed) -> Path:
    """Where ``mpnet run`` is asked about its device."""
    return bed.path("control.sock")


def _wait(bed: Bed, program: Child) -> None:
    """Wait until it serves.

    Raises:
        MpnetError: it does not; with the log's last words.
    """
    heard, said = time.monotonic(), ""
    while not _serves(bed):
        program.check()
        if (log := program.log()) != said:
            heard, said = time.monotonic(), log
        if time.monotonic() - heard > _SILENT_SECONDS:
            raise MpnetError(f"'mpnet run' serves nothing, silent for {_SILENT_SECONDS:.0f} s", program.log_end())
        time.sleep(_LOOK_SECONDS)


def _serves(bed: Bed) -> bool:
    # Its socket comes into being, and listens, some time after it started.
    with suppress(MpnetError), Client(control_socket(bed)) as client:
        return bool(client.call("device.list"))
    return False


def _worked_ns(name: str) -> float:
    return float(sum(int(worker.round_ns) for worker in Segment.attach(name).workers))


def _family(name: str, program: Child) -> list[int]:
    """Ids of the workers, by slot, then of all other processes of ``mpnet run``."""
    workers = [int(worker.pid) for worker in Segment.attach(name).workers if worker.pid]
    run = psutil.Process(program.process.pid)
    everyone = [run.pid, *(each.pid for each in run.children(recursive=True))]
    return workers + [pid for pid in everyone if pid not in workers]
