"""Work done by a stock Linux guest: the same guest on each system, booted once, stopped while others have a turn.

A guest that is booted anew in each round would be measured cold, and the boots would take longer than the turns;
one that only idles would take processor time from the system under test, for its emulated processor's clock.
"""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from mpnet.bench.bed import PREFIX_BITS, Bed, Wire
from mpnet.bench.case import Case
from mpnet.bench.child import affinity
from mpnet.bench.ping import percentiles
from mpnet.bench.system import Turn
from mpnet.errors import MpnetError
from mpnet.guest import debian
from mpnet.guest.lifeline import bound_to_us
from mpnet.guest.linux import acceleration
from mpnet.guest.linux.guest import LinuxGuest, Setup
from mpnet.guest.linux.qemu import Machine, TapNic, VhostUserNic

_PATIENCE_SECONDS = 60.0
_MEMORY_MIB = 256
_FEWEST_PINGS = 20


def missing() -> str:
    """Why there can be no guest here; empty where there can."""
    if packages := debian.missing_packages():
        return f"a guest needs the packages {' '.join(packages)}"
    if not debian.has_kernel():
        return "there is no guest's kernel in the cache; 'mpnet guest qemu' fetches one"
    return ""


@contextmanager
def linux(bed: Bed, case: Case, wire: Wire, nic: VhostUserNic | TapNic) -> Iterator[Turn]:
    """Boot a guest on a device; what a turn in it is."""
    # A pc: its device does without MSI-X, with which QEMU 7.2 crashes under TCG.
    machine = Machine(accel=acceleration.best(), machine="pc", smp=1, memory_mib=_MEMORY_MIB)
    guest = LinuxGuest(nic, machine, Setup(addresses=[f"{wire.guest}/{PREFIX_BITS}"]))
    work = _round_trips if case.kind == "guest-rtt" else _streams

    def turn(seconds: float) -> dict[str, float]:
        os.kill(guest.pid, signal.SIGCONT)
        try:
            return work(guest, bed, wire, seconds)
        finally:
            os.kill(guest.pid, signal.SIGSTOP)

    with affinity(bed.cpus):
        guest.start()
    try:
        guest.wait_ready()
        os.kill(guest.pid, signal.SIGSTOP)
        yield turn
    finally:
        # One that is stopped would not hear that it is to leave.
        os.kill(guest.pid, signal.SIGCONT)
        guest.stop()


def _round_trips(guest: LinuxGuest, _bed: Bed, wire: Wire, seconds: float) -> dict[str, float]:
    """Ping the host, each as soon as the last is answered; busybox tells microseconds."""
    whole = max(1, round(seconds))
    said = guest.check(
        f"ping -A -w {whole} {wire.host} | sed -n 's/.*time=\\([0-9.]*\\) ms/\\1/p'", _PATIENCE_SECONDS
    )
    times = np.array([float(word) * 1e6 for word in said.split()], np.int64)
    if len(times) < _FEWEST_PINGS:
        raise MpnetError(f"{len(times)} pings of a guest were answered in {whole} s, expected {_FEWEST_PINGS}")
    return percentiles(times)


def _streams(guest: LinuxGuest, bed: Bed, wire: Wire, seconds: float) -> dict[str, float]:
    """A TCP stream each way; what arrived."""
    whole = max(1, round(seconds))
    return {
        "tx": _stream(guest, bed, wire, f"-t {whole}"),
        "rx": _stream(guest, bed, wire, f"-t {whole} -R"),
    }


def _stream(guest: LinuxGuest, bed: Bed, wire: Wire, options: str) -> float:
    with _server(bed, wire) as port:
        report = json.loads(guest.check(f"iperf3 -c {wire.host} -p {port} -J {options}", _PATIENCE_SECONDS))
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e9


@contextmanager
def _server(bed: Bed, wire: Wire) -> Iterator[int]:
    """iperf3 on the host for one stream; its port, once it listens."""
    with socket.create_server((wire.host, 0)) as probe:
        port = int(probe.getsockname()[1])
    command = [str(debian.program("iperf3")), "-s", "-1", "-B", wire.host, "-p", str(port), "--forceflush"]
    with (
        affinity(bed.cpus),
        subprocess.Popen([*bound_to_us(), *command], stdout=subprocess.PIPE, text=True) as server,
    ):
        try:
            assert server.stdout is not None
            if not any("listening" in line for line in server.stdout):
                raise MpnetError("iperf3 does not listen on the host")
            yield port
        finally:
            server.terminate()
