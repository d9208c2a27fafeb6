"""DPDK's testpmd as a child of the bench, and what it says of its ports."""

import json
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpnet.bench.bed import Bed
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Forwarder:
    """What a testpmd does; one processor polls all its ports.

    Args:
        name: of its files; every running one has its own.
        ports: device strings, in order.
        cpu: where it polls.
        mode: forwarding mode, as "io" or "txonly".
        options: further options.
    """

    name: str
    ports: Sequence[str]
    cpu: int
    mode: str
    options: Sequence[str] = ()


@contextmanager
def testpmd(bed: Bed, forwarder: Forwarder) -> Iterator[Child]:
    """Start it; it forwards at once, and polls without a rest."""
    log = bed.path(f"{forwarder.name}.log")
    with child(_command(bed, forwarder), log, {bed.driver_cpu, bed.device_cpu}, told=True) as program:
        yield program


def _command(bed: Bed, forwarder: Forwarder) -> list[str]:
    ports = [word for port in forwarder.ports for word in ("--vdev", port)]
    return [
        # Its own files would be left in /var/run/dpdk.
        *("env", f"RUNTIME_DIRECTORY={bed.folder}", str(debian.program(PROGRAM))),
        # Its buffers lie in plain pages: huge ones are rarely set aside. In one file: vhost-user passes on few.
        *("--no-pci", "--no-huge", "-m", "512", "--single-file-segments"),
        *("--lcores", f"0@{bed.driver_cpu},1@{forwarder.cpu}", f"--file-prefix={_prefix(bed, forwarder.name)}"),
        *(*ports, "--", "--nb-cores=1", f"--forward-mode={forwarder.mode}", "--auto-start"),
        *("--total-num-mbufs=16384", "--stats-period=3600", f"--txd={RING_SIZE}", f"--rxd={RING_SIZE}"),
        *forwarder.options,
    ]


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

    def packets(self, port: int = 0) -> tuple[int, int]:
        """Packets that a port has received and sent so far."""
        self._socket.send(f"{_PORT_STATISTICS},{port}".encode())
        answer: dict[str, Any] = json.loads(self._socket.recv(_ANSWER_BYTES))[_PORT_STATISTICS]
        return int(answer["ipackets"]), int(answer["opackets"])


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
