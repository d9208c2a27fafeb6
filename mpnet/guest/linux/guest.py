"""A throw-away Linux guest: Debian's kernel in QEMU, its commands run through an agent."""

import os
import shlex
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import IO, Self

from mpnet.errors import MpnetError
from mpnet.guest import debian
from mpnet.guest.lifeline import bound_to_us
from mpnet.guest.linux import initramfs, version
from mpnet.guest.linux.agent import Agent, Completed, GuestError, Job
from mpnet.guest.linux.qemu import (
    MEMORY_ID,
    Machine,
    TapNic,
    VhostUserNic,
    boot_arguments,
    channel_arguments,
    memory_object,
)
from mpnet.guest.linux.qmp import Qmp

BOOT_SECONDS = 120.0
"""How long a guest may take to boot: some 5 s under TCG on an idle machine."""

_STOP_SECONDS = 5.0
_CONSOLE_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What the guest does with eth0 once it has booted.

    Attributes:
        addresses: IPv4 or IPv6 addresses with their prefix length.
        mtu: bytes; None keeps what the device tells.
        gateway: where the default IPv4 route leads.
    """

    addresses: Sequence[str] = ()
    mtu: int | None = None
    gateway: str | None = None

    def command_line(self) -> list[str]:
        """Give the words for the kernel command line that init.sh reads."""
        words = []
        if self.addresses:
            words.append(f"mpnet.ip={','.join(self.addresses)}")
        if self.mtu:
            words.append(f"mpnet.mtu={self.mtu}")
        if self.gateway:
            words.append(f"mpnet.gateway={self.gateway}")
        return words


class LinuxGuest:
    """A guest in a QEMU process of its own; a context manager that starts and stops it.

    QEMU gets SIGKILL when the *thread* that called `start` ends (PR_SET_PDEATHSIG counts threads): start guests
    from one that outlives them.

    Args:
        nic: the device: mpnet's over vhost-user, or QEMU's own on a TAP.
        machine: the machine around it.
        setup: what becomes of eth0.
    """

    def __init__(self, nic: VhostUserNic | TapNic, machine: Machine, setup: Setup) -> None:
        self.nic = nic
        self.machine = machine
        self.setup = setup
        self._process: subprocess.Popen[bytes] | None = None
        self._console: IO[bytes] | None = None
        self._agent: Agent | None = None
        self._qmp: Qmp | None = None
        self._dimms = 0

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """QEMU's process.

        Raises:
            GuestError: the guest is not started.
        """
        if self._process is None:
            raise GuestError("the guest is not started")
        return self._process.pid

    @property
    def console(self) -> str:
        """What the guest's console and QEMU have said so far."""
        if self._console is None:
            return ""
        size = os.fstat(self._console.fileno()).st_size
        return os.pread(self._console.fileno(), size, 0).decode(errors="replace")

    def start(self) -> None:
        """Start QEMU; it waits by itself for a vhost-user back-end that is not there yet.

        Raises:
            MpnetError: a part of the guest is missing.
        """
        if self._process is not None:
            raise GuestError("the guest is started already")
        arguments = guest_command(self.nic, self.machine, self.setup.command_line())
        # Sockets passed by number leave no path behind, and take no guest's first word before we listen.
        agent, agent_end = socket.socketpair()
        qmp, qmp_end = socket.socketpair()
        arguments += channel_arguments(self.machine, agent_end.fileno(), qmp_end.fileno())
        console = tempfile.TemporaryFile(prefix="mpnet-console-")  # noqa: SIM115 (closed by stop)
        self._agent, self._qmp, self._console = Agent(agent), Qmp(qmp), console
        with agent_end, qmp_end:
            self._process = subprocess.Popen(
                [*bound_to_us(), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                pass_fds=(agent_end.fileno(), qmp_end.fileno()),
                # Ctrl-C in a terminal is for us: we stop the guest in our own order.
                start_new_session=True,
            )

    def wait_ready(self, timeout: float = BOOT_SECONDS, boots: int = 1) -> None:
        """Wait until the guest's agent serves.

        Args:
            timeout: seconds.
            boots: which of the guest's boots is waited for.

        Raises:
            GuestError: it did not come, with the end of the console.
        """
        agent = self._live_agent()
        if not agent.wait_ready(boots, timeout):
            raise self._failure(f"the guest's agent did not come up in {timeout:g} s")
        if agent.boots < boots:
            raise self._failure("QEMU ended before the guest was up")

    def spawn(self, command: str | Sequence[str]) -> Job:
        """Start a shell command, or a program with its arguments, in the guest, and do not wait for it.

        Raises:
            GuestError: the guest is gone.
        """
        line = command if isinstance(command, str) else shlex.join(command)
        return self._live_agent().start(line)

    def run(self, command: str | Sequence[str], timeout: float = 60.0) -> Completed:
        """Run a command in the guest to its end, whatever its exit status.

        Raises:
            GuestError: the guest is gone, or the command took longer than `timeout` seconds.
        """
        try:
            return self.spawn(command).wait(timeout)
        except GuestError as error:
            raise self._failure(error.problem) from error

    def check(self, command: str | Sequence[str], timeout: float = 60.0) -> str:
        """Run a command that has to succeed and give its standard output.

        Raises:
            GuestError: as for `run`, or the exit status was not zero.
        """
        done = self.run(command, timeout)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()
            raise GuestError(f"in the guest, {done.command!r} exited with {done.returncode}: {said}")
        return done.stdout

    def reboot(self, timeout: float = BOOT_SECONDS) -> None:
        """Reboot the guest inside the same QEMU, without a sync, and wait until it is back.

        Raises:
            GuestError: it did not come back in `timeout` seconds.
        """
        boots = self._live_agent().boots
        self.spawn("reboot -f")
        self.wait_ready(timeout, boots + 1)

    def monitor(self, command: str, **arguments: object) -> object:
        """Run a QMP command.

        Raises:
            MpnetError: QEMU refused it or is gone.
        """
        if self._qmp is None:
            raise GuestError("the guest is not started")
        return self._qmp.execute(command, **arguments)

    def add_memory(self, size_mib: int) -> None:
        """Plug in a DIMM of shared memory; the guest puts it into use by itself a moment later.

        Args:
            size_mib: a multiple of 128, Linux's memory block.

        Raises:
            MpnetError: QEMU has no slot or room left for it.
        """
        identifier = f"{MEMORY_ID}{self._dimms + 1}"
        kind, *words = memory_object(self.machine, identifier, size_mib)
        texts = dict(word.split("=", 1) for word in words)
        properties: dict[str, object] = {**texts, "size": size_mib << 20, "share": True}
        self.monitor("object-add", **{"qom-type": kind, **properties})
        self.monitor("device_add", driver="pc-dimm", id=f"dimm-{identifier}", memdev=identifier)
        self._dimms += 1

    def stop(self) -> None:
        """End QEMU: by its monitor, else SIGTERM, else SIGKILL; harmless when it has ended or never began."""
        if self._process is not None:
            self._end(self._process)
        for part in (self._agent, self._qmp, self._console):
            if part is not None:
                part.close()
        self._process = self._agent = self._qmp = self._console = None

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is not None:
            return
        # Before the guest is up QEMU may still wait for a back-end, deaf to its monitor.
        asks = [process.terminate, process.kill]
        if self._agent is not None and self._agent.boots:
            asks.insert(0, self._quit)
        for ask in asks:
            ask()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
                return

    def _quit(self) -> None:
        with suppress(MpnetError):
            self.monitor("quit")

    def _live_agent(self) -> Agent:
        if self._agent is None:
            raise GuestError("the guest is not started")
        return self._agent

    def _failure(self, problem: str) -> GuestError:
        """Make an error that carries the end of the console."""
        said = self.console[-_CONSOLE_BYTES:].strip()
        return GuestError(f"{problem}; the console's last words:\n{said}" if said else problem)


def guest_command(nic: VhostUserNic | TapNic, machine: Machine, command_line: Sequence[str]) -> list[str]:
    """Give QEMU's program and arguments for a throw-away guest, its consoles apart.

    Raises:
        MpnetError: a part of the guest is missing.
    """
    kernel = debian.kernel()
    archive = initramfs.build(kernel)
    qemu = debian.program("qemu-system-x86_64")
    machine = replace(machine, qemu=machine.qemu or version.of(qemu))
    return [str(qemu), *boot_arguments(nic, machine, str(kernel.image), str(archive), command_line)]


def run_interactive(nic: VhostUserNic | TapNic, machine: Machine, setup: Setup) -> int:
    """Boot a guest with a shell on this terminal and give QEMU's exit status: `mpnet guest qemu`.

    Raises:
        MpnetError: a part of the guest is missing.
    """
    command = guest_command(nic, machine, [*setup.command_line(), "mpnet.shell=1"])
    console = ["-chardev", "stdio,id=console,mux=on,signal=off", "-serial", "chardev:console"]
    monitor = ["-mon", "chardev=console"]
    return subprocess.call([*bound_to_us("TERM"), *command, *console, *monitor])
