"""DPDK's testpmd as a child of the bench, and what it says of its ports."""

import json
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpnet.bench.bed import GUEST_MAC, Bed
from mpnet.bench.case import RING_SIZE
from mpnet.bench.child import Child, child
from mpnet.errors import MpnetError
from mpnet.guest import debian

PROGRAM = "dpdk-testpmd"
COUNT_WORK = ("--interactive", "--record-core-cycles")
"""Options for ``worked_ns``."""
START_SECONDS = 30.0
_LOOK_SECONDS = 0.02
_ANSWER_BYTES = 1 << 14
_WORK = re.compile(r"total cycles=(?P<cycles>\d+) .* at (?P<mhz>\d+) MHz")
_PORT_STATISTICS = "/ethdev/stats"
_LEAST_BUFFERS = 16384
_BUFFER_BYTES = 2432
"""That a frame's buffer takes in testpmd's memory, of which half is for other things."""
_LEAST_MIB = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Forwarder:
    """What a testpmd does.

    Args:
        name: of its files; every running one has its own.
        ports: device strings, in order.
        cpus: where it polls; each has its share of the queues.
        mode: forwarding mode, as "io" or "txonly".
        queue_pairs: of each port.
        ring_size: descriptors of each ring.
        options: further options.
    """

    name: str
    ports: Sequence[str]
    cpus: Sequence[int]
    mode: str
    queue_pairs: int = 1
    ring_size: int = RING_SIZE
    options: Sequence[str] = ()

    @property
    def buffers(self) -> int:
        """Frames that it has room for: its rings full, and as many in its hands."""
        return max(_LEAST_BUFFERS, 4 * len(self.ports) * self.queue_pairs * self.ring_size)


def virtio_user(path: Path, *, queue_pairs: int, ring_size: int, packed: bool, mergeable: bool = True) -> str:
    """The device string of a port that drives the device at a vhost-user socket."""
    words = f"queues={queue_pairs},queue_size={ring_size},packed_vq={packed:d},mrg_rxbuf={mergeable:d},in_order=0"
    return f"net_virtio_user0,path={path},mac={GUEST_MAC.hex(':')},{words}"


@contextmanager
def testpmd(bed: Bed, forwarder: Forwarder) -> Iterator[Child]:
    """Start it; it forwards at once, and polls without a rest."""
    log = bed.path(f"{forwarder.name}.log")
    with child(_command(bed, forwarder), log, {bed.driver_cpu, bed.device_cpu}, told=True) as program:
        yield program


def _command(bed: Bed, forwarder: Forwarder) -> list[str]:
    ports = [word for port in forwarder.ports for word in ("--vdev", port)]
    cores = ",".join(f"{number}@{cpu}" for number, cpu in enumerate(forwarder.cpus, 1))
    return [
        # Its own files would be left in /var/run/dpdk.
        *("env", f"RUNTIME_DIRECTORY={bed.folder}"),
        # A line is in the log once it is printed.
        *("stdbuf", "--output=L", str(debian.program(PROGRAM))),
        # Its buffers lie in plain pages, as huge ones are rarely set aside; these are always in one file.
        *("--no-pci", "--no-huge", "-m", str(_memory_mib(forwarder))),
        *("--lcores", f"0@{bed.driver_cpu},{cores}", f"--file-prefix={_prefix(bed, forwarder.name)}"),
        *(*ports, "--", f"--nb-cores={len(forwarder.cpus)}", f"--forward-mode={forwarder.mode}", "--auto-start"),
        *(f"--total-num-mbufs={forwarder.buffers}", "--stats-period=3600"),
        *(f"--txd={forwarder.ring_size}", f"--rxd={forwarder.ring_size}"),
        *(f"--rxq={forwarder.queue_pairs}", f"--txq={forwarder.queue_pairs}"),
        *forwarder.options,
    ]


def _memory_mib(forwarder: Forwarder) -> int:
    return max(_LEAST_MIB, forwarder.buffers * _BUFFER_BYTES >> 19)


def _prefix(bed: Bed, name: str) -> str:
    return f"{bed.folder.name}-{name}"


def worked_ns(program: Child) -> float:
    """Nanoseconds so far of a testpmd's rounds that moved packets; it was started with ``COUNT_WORK`` and runs.

    Raises:
        MpnetError: it does not answer in time.
    """
    said = len(program.log())
    program.tell("show fwd stats all")
    deadline = time.monotonic() + START_SECONDS
    while not (found := _WORK.search(program.log(), said)):
        program.check()
        if time.monotonic() > deadline:
            raise MpnetError(f"testpmd tells no cycles in {START_SECONDS:.0f} s", program.log_end())
        time.sleep(_LOOK_SECONDS)
    return 1000 * int(found["cycles"]) / int(found["mhz"])


class Telemetry:
    """Questions to a running testpmd; a context manager.

    Raises:
        MpnetError: it does not listen in time.
    """

    def __init__(self, bed: Bed, forwarder: Forwarder, program: Child) -> None:
        path = bed.folder / "dpdk" / _prefix(bed, forwarder.name) / "dpdk_telemetry.v2"
        self._socket = _connect(path, program)
        self._socket.recv(_ANSWER_BYTES)  # it begins by saying what it is

    def __enter__(self) -> "Telemetry":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def packets(self) -> tuple[int, int]:
        """Packets that its first port has received and sent so far."""
        self._socket.send(f"{_PORT_STATISTICS},0".encode())
        answer: dict[str, Any] = json.loads(self._socket.recv(_ANSWER_BYTES))[_PORT_STATISTICS]
        return int(answer["ipackets"]), int(answer["opackets"])

    def wait(self, meanwhile: Callable[[], None] = lambda: time.sleep(_LOOK_SECONDS)) -> None:
        """Wait until packets move.

        Args:
            meanwhile: done between two looks.

        Raises:
            MpnetError: none does.
        """
        deadline = time.monotonic() + START_SECONDS
        while not any(self.packets()):
            if time.monotonic() > deadline:
                raise MpnetError(f"DPDK's driver has moved no frame in {START_SECONDS:.0f} s")
            meanwhile()


def _connect(path: Path, program: Child) -> socket.socket:
    deadline = time.monotonic() + START_SECONDS
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(START_SECONDS)
        try:
            sock.connect(str(path))
        except OSError as error:
            sock.close()
            program.check()
            if time.monotonic() > deadline:
                raise MpnetError(f"testpmd is silent for {START_SECONDS:.0f} s", program.log_end()) from error
            time.sleep(_LOOK_SECONDS)
        else:
            return sock
