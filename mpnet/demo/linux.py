"""The second guest: Debian's kernel in QEMU, on the device the embedded driver has left."""

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

from mpnet.demo.meter import Meter
from mpnet.demo.ping import ping
from mpnet.demo.stage import GUEST, HOST, PREFIX_BITS, QUEUE_PAIRS, Stage
from mpnet.demo.summary import Check, Part, ping_check, rings_check
from mpnet.demo.talk import Talk
from mpnet.demo.watch import Watch
from mpnet.guest import debian
from mpnet.guest.lifeline import bound_to_us
from mpnet.guest.linux import acceleration
from mpnet.guest.linux.agent import Completed, GuestError, Job
from mpnet.guest.linux.guest import LinuxGuest, Setup
from mpnet.guest.linux.qemu import Machine, VhostUserNic

_PINGS = 5
_MEMORY_MIB = 512
_CONNECTIONS = 2
_PATIENCE_SECONDS = 60.0


def show(stage: Stage, talk: Talk, seconds: float) -> Part:
    """Boot, be pinged, then run iperf3 for ``seconds`` in all, half of it each way.

    Raises:
        MpnetError: the guest did not come up, or a command in it failed.
    """
    report = stage.show()
    accelerator = acceleration.best()
    nic = VhostUserNic(socket=str(stage.socket), queue_pairs=QUEUE_PAIRS, mac=report.mac)
    machine = Machine(accel=accelerator, smp=QUEUE_PAIRS, memory_mib=_MEMORY_MIB)
    guest = LinuxGuest(nic, machine, Setup(addresses=(f"{GUEST}/{PREFIX_BITS}",)))
    how = "KVM" if accelerator == "kvm" else "emulation, as KVM does not serve here"
    begin = time.monotonic()
    with ExitStack() as stack:
        with talk.waiting(f"booting Linux in QEMU with {how}"):
            stack.enter_context(guest)
        release = guest.check("uname -r").strip()
        talk.done(f"Debian's kernel {release}, unmodified, booted in {time.monotonic() - begin:.1f} s")
        pinged = talk.check(ping_check(_PINGS, ping(GUEST, _PINGS)))
        meter = Meter(stage.segment())
        begin = time.monotonic()
        half = max(1, round(seconds / 2))  # iperf3 takes whole seconds
        moved = [talk.check(_transfer(guest, talk, meter, half, reverse=reverse)) for reverse in (False, True)]
        rings = meter.totals()
        took = time.monotonic() - begin
    return Part(
        guest=f"Linux {release} in QEMU",
        seconds=took,
        rings=rings,
        checks=[pinged, *moved, talk.check(rings_check(rings))],
    )


def _transfer(guest: LinuxGuest, talk: Talk, meter: Meter, seconds: int, *, reverse: bool) -> Check:
    """Run one client on each of the guest's processors, as the driver's queue is the processor's."""
    way = "host to guest" if reverse else "guest to host"
    talk.note(f"{seconds} s of iperf3, {way}: {_CONNECTIONS} TCP connections on each processor")
    with ExitStack() as stack:
        ports = [stack.enter_context(_server()) for _ in range(QUEUE_PAIRS)]
        jobs = [
            guest.spawn(
                f"taskset {1 << cpu:x} iperf3 -c {HOST} -p {port} -t {seconds} -P {_CONNECTIONS} --json"
                + (" -R" if reverse else "")
            )
            for cpu, port in enumerate(ports)
        ]
        with Watch(talk.console, meter) as watch:
            begin = time.monotonic()
            while time.monotonic() - begin < seconds:
                watch.look()
        ends = [_end(job) for job in jobs]
    moved = sum(end["sum_received"]["bytes"] for end in ends)
    rate = sum(end["sum_received"]["bits_per_second"] for end in ends) / 1e6
    return Check(way, moved > 0, f"{moved / 1e6:,.0f} MB over TCP, {rate:,.0f} Mbit/s")


def _end(job: Job) -> Any:
    """The totals in the report of an iperf3 client."""
    done = job.wait(_PATIENCE_SECONDS)
    try:
        return json.loads(done.stdout)["end"] if done.returncode == 0 else _refuse(done)
    except ValueError:
        return _refuse(done)


def _refuse(done: Completed) -> NoReturn:
    raise GuestError(
        f"in the guest, {done.command!r} exited with {done.returncode}: {done.stdout or done.stderr}"
    )


@contextmanager
def _server() -> Iterator[int]:
    """Serve one iperf3 client; gives the port once it listens."""
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
    command = [
        *bound_to_us("TERM"),
        str(debian.program("iperf3")),
        "-s",
        "-1",
        "-B",
        HOST,
        "-p",
        str(port),
        "--forceflush",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            assert server.stdout is not None
            for line in server.stdout:
                if "listening" in line:
                    break
            # What it prints later is little and fits the pipe.
            yield port
        finally:
            server.terminate()
