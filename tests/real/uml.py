"""A guest under User-Mode Linux: the one stock guest that asks the device itself about its configuration.

Its kernel is a process of the host's; ``virtio_uml`` attaches it to a vhost-user socket, reads the configuration
space from there, and has the device serve the control queue.
"""

import os
import re
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from mpnet.errors import MpnetError
from mpnet.guest import debian, parts
from mpnet.guest.lifeline import bound_to_us
from mpnet.guest.linux import initramfs
from mpnet.guest.linux.agent import Agent
from mpnet.guest.linux.guest import LinuxGuest, Setup
from mpnet.guest.linux.qemu import Machine, VhostUserNic
from tests.real.release import taken

_FLAGS = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
RELEASE = "testing" if _FLAGS and " amx_tile" in _FLAGS[1] else ""
"""Whose User-Mode Linux is run. That of Debian 12 and 13 ends at its first process on processors with AMX, as it
has no room for so many registers ("ptrace set fp regs failed")."""
PARTS = (f"uml={RELEASE}" if RELEASE else "uml", "busybox", "iperf3", "ethtool", "perl", "setpriv")

_MODULES = "usr/lib/uml/modules"
_NETWORK_DEVICE = 1  # VIRTIO 5.1.1


def kernel() -> debian.Kernel:
    """Debian's User-Mode Linux.

    Raises:
        MpnetError: it, or its modules, are missing.
    """
    with taken(f"uml={RELEASE}" if RELEASE and "uml" not in parts.chosen() else ""):
        image = debian.program("linux.uml")
        modules = debian.root("uml") / _MODULES
    releases = [path.parent for path in modules.glob("*/modules.dep")]
    if len(releases) != 1:
        raise MpnetError(
            f"expected one release under {modules}, found {len(releases)}", "reinstall user-mode-linux"
        )
    return debian.Kernel(releases[0].name, image, releases[0])


class UmlGuest(LinuxGuest):
    """A throw-away guest whose machine is User-Mode Linux; all that is said of QEMU's does not apply.

    Args:
        path: of the vhost-user socket.
        setup: what becomes of eth0.
        memory_mib: of the guest.
    """

    def __init__(self, path: Path, setup: Setup, memory_mib: int = 128) -> None:
        super().__init__(VhostUserNic(socket=str(path)), Machine(accel="tcg", memory_mib=memory_mib), setup)
        self._folder = tempfile.TemporaryDirectory(prefix="mpnet-uml-")

    def __exit__(self, *ending: object) -> None:
        self.stop()
        self._folder.cleanup()

    def start(self) -> None:
        """Start the guest's kernel; the back-end must listen."""
        agent, agent_end = socket.socketpair()
        self._console = tempfile.TemporaryFile(prefix="mpnet-console-")  # noqa: SIM115 (closed by stop)
        self._agent = Agent(agent)
        with agent_end:
            number = agent_end.fileno()
            self._process = subprocess.Popen(
                [
                    *bound_to_us(),
                    *(str(kernel().image), f"mem={self.machine.memory_mib}M"),
                    *(f"initrd={initramfs.build(kernel())}", "rdinit=/init"),
                    f"virtio_uml.device={self.nic.socket}:{_NETWORK_DEVICE}",
                    *("con0=null,fd:1", "con=null", f"ssl0=fd:{number}", "ssl=null", "mpnet.agent=/dev/ttyS0"),
                    *(f"uml_dir={self._folder.name}", "umid=guest", "quiet"),
                    *self.setup.command_line(),
                ],
                stdin=subprocess.DEVNULL,
                stdout=self._console,
                stderr=self._console,
                pass_fds=(number,),
                # Its memory is an unlinked file there.
                env=os.environ | {"TMPDIR": "/dev/shm", "HOME": self._folder.name},  # noqa: S108
                start_new_session=True,
            )

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        # Each of the guest's processes is one of the host's, traced by the kernel's; only a kill reaches all.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
