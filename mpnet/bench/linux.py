"""Work done by a stock Linux guest: the same guest on each system, booted once, stopped while others have a turn.

A guest that is booted anew in each round would be measured cold, and the boots would take longer than the turns;
one that only idles would take processor time from the system under test, for its emulated processor's clock.
"""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpnet.bench.bed import PREFIX_BITS, Bed, Wire
from mpnet.bench.case import Case
from mpnet.bench.child import affinity
from mpnet.bench.ping import percentiles
from mpnet.bench.system import Turn
from mpnet.errors import MpnetError
from mpnet.guest import debian
from mpnet.guest.lifeline import bound_to_us
from mpnet.guest.linux import acceleration
from mpnet.guest.linux.agent import Completed
from mpnet.guest.linux.guest import LinuxGuest, Setup
from mpnet.guest.linux.qemu import Machine, TapNic, VhostUserNic

_PATIENCE_SECONDS = 60.0
_MEMORY_MIB = 256
_FEWEST_PINGS = 20
_PING_BYTES = 22
"""Of payload: 64 with all headers."""


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
    with booted(bed, wire, nic) as guest:

        def turn(seconds: float) -> dict[str, float]:
            os.kill(guest.pid, signal.SIGCONT)
            try:
                if case.kind == "guest-rtt":
                    return percentiles(round_trips(guest, wire, seconds))
                return {way: _stream(guest, bed, wire, seconds, way) for way in ("tx", "rx")}
            finally:
                os.kill(guest.pid, signal.SIGSTOP)

        os.kill(guest.pid, signal.SIGSTOP)
        try:
            yield turn
        finally:
            # One that is stopped would not hear that it is to leave.
            os.kill(guest.pid, signal.SIGCONT)


@contextmanager
def booted(bed: Bed, wire: Wire, nic: VhostUserNic | TapNic) -> Iterator[LinuxGuest]:
    """A guest on a device, with a processor for each queue pair, for as long as the block lasts."""
    # A pc: its device does without MSI-X, with which QEMU 7.2 crashes under TCG.
    machine = Machine(accel=acceleration.best(), machine="pc", smp=nic.queue_pairs, memory_mib=_MEMORY_MIB)
    guest = LinuxGuest(nic, machine, Setup(addresses=[f"{wire.guest}/{PREFIX_BITS}"]))
    try:
        with affinity(bed.cpus):
            guest.start()
        guest.wait_ready()
        yield guest
    finally:
        guest.stop()


def round_trips(guest: LinuxGuest, wire: Wire, seconds: float) -> NDArray[np.int64]:
    """Ping the host, each as soon as the last is answered; nanoseconds of each, as busybox tells microseconds.

    The frames have 64 bytes, and the time is rounded to whole seconds.
    """
    whole = max(1, round(seconds))
    said = guest.check(
        f"ping -A -s {_PING_BYTES} -w {whole} {wire.host} | sed -n 's/.*time=\\([0-9.]*\\) ms/\\1/p'",
        _PATIENCE_SECONDS,
    )
    times = np.array([float(word) * 1e6 for word in said.split()], np.int64)
    if len(times) < _FEWEST_PINGS:
        raise MpnetError(f"{len(times)} pings of a guest were answered in {whole} s, expected {_FEWEST_PINGS}")
    return times


def _stream(guest: LinuxGuest, bed: Bed, wire: Wire, seconds: float, way: str) -> float:
    """A TCP stream; Gbit/s that arrived."""
    options = f"-t {max(1, round(seconds))}{' -R' if way == 'rx' else ''}"
    (end,) = iperf3(guest, bed, wire, [(0, options)], seconds)
    return float(end["sum_received"]["bits_per_second"]) / 1e9


def iperf3(
    guest: LinuxGuest, bed: Bed, wire: Wire, clients: Sequence[tuple[int, str]], seconds: float
) -> list[dict[str, Any]]:
    """Run clients in the guest at once, each against a server of its own on the host.

    Args:
        guest: with iperf3.
        bed: says where servers run.
        wire: of the guest.
        clients: processor and options of each; the guest sends on the queue pair of the processor.
        seconds: that they take.

    Returns:
        What each says at its end, the field "end" of its document.

    Raises:
        MpnetError: one failed.
    """
    with ExitStack() as stack:
        jobs = []
        for cpu, options in clients:
            port = stack.enter_context(_server(bed, wire))
            jobs.append(guest.spawn(f"taskset {1 << cpu:x} iperf3 -c {wire.host} -p {port} -J {options}"))
        return [_end(job.wait(seconds + _PATIENCE_SECONDS)) for job in jobs]


def _end(done: Completed) -> dict[str, Any]:
    try:
        document = json.loads(done.stdout)
        if done.returncode == 0:
            end: dict[str, Any] = document["end"]
            return end
        reason = document["error"]
    except (ValueError, KeyError):
        reason = done.stdout or done.stderr
    raise MpnetError(f"in the guest, {done.command!r} ended with status {done.returncode}: {reason}")


@contextmanager
def _server(bed: Bed, wire: Wire) -> Iterator[int]:
    """iperf3 on the host for one client; its port, once it listens."""
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
