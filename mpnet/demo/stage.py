"""Everything around a guest: ``mpnet run`` with one device, its TAP, and the host's address on it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

import msgspec
from pyroute2 import IPRoute

from mpnet.config import inherited
from mpnet.errors import MpnetError
from mpnet.guest.lifeline import bound_to_us
from mpnet.rpc.management import Client
from mpnet.rpc.state import DeviceReport
from mpnet.segment.segment import Segment, unlink

HOST = "192.0.2.1"
GUEST = "192.0.2.2"
PREFIX_BITS = 24
"""TEST-NET-1 (RFC 5737): addresses that are nobody's."""
TAP = "tap0"
QUEUE_PAIRS = 2

_SILENT_SECONDS = 120.0
"""Without a word in its log."""
_STOP_SECONDS = 10.0
_LOOK_SECONDS = 0.02
_LOG_LINES = 5


class Seen:
    """The device as any process in the demo's network namespace sees it.

    Args:
        device: its name on this machine.
        folder: of its sockets.

    Attributes:
        socket: the device's vhost-user socket.
    """

    def __init__(self, device: str, folder: Path) -> None:
        self.device = device
        self.folder = folder
        self.socket = folder / "net0.sock"
        self._control = folder / "control.sock"

    def show(self) -> DeviceReport:
        """``mpnet device show`` of the device."""
        with Client(self._control) as client:
            return msgspec.convert(client.call("device.show", device=self.device), DeviceReport)

    def segment(self) -> Segment:
        """The device's shared memory."""
        return Segment.attach(self.device)

    def tap_mac(self) -> bytes:
        """The host's address on the TAP, 6 bytes."""
        with IPRoute() as ip:
            link = next(iter(ip.link("get", index=_index(ip))))
            return bytes.fromhex(link.get_attr("IFLA_ADDRESS").replace(":", ""))

    def know_guest(self, mac: str) -> None:
        """Spare the kernel asking who has the guest's address."""
        with IPRoute() as ip:
            ip.neigh("replace", dst=GUEST, lladdr=mac, ifindex=_index(ip), state="permanent")

    def forget_guest(self) -> None:
        """Let the kernel ask again."""
        with IPRoute() as ip:
            ip.neigh("delete", dst=GUEST, ifindex=_index(ip))

    def compiled(self) -> bool:
        """Whether all workers run compiled code."""
        return all(worker.code == "compiled" for worker in self.show().workers)


class Stage(Seen):
    """Starts at once, serves once ``wait`` returns; a context manager that takes it all down again.

    The caller is in a network namespace of its own.

    Args:
        folder: for sockets and the log.
    """

    def __init__(self, folder: Path) -> None:
        # Shared memory has no namespace: the name must be nobody else's.
        super().__init__(f"demo{os.getpid()}", folder)
        self._log = folder / "log"
        words = f"id={self.device},tap={TAP},create=on,socket={self.socket},queue-pairs={QUEUE_PAIRS}"
        run = ["run", "--control-socket", str(self._control), "--device", words]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*bound_to_us("TERM"), sys.executable, "-c", _MPNET, *run],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=inherited.environment(),
                start_new_session=True,  # Ctrl-C is for us: we stop it in our own order
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        if self._process.poll() != 0:
            self._clear()

    def _clear(self) -> None:
        """Remove what a control process that did not end in order leaves: workers live on without it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        unlink(self.device)

    def wait(self) -> None:
        """Wait until the device is served, then give the host its address on the TAP.

        Raises:
            MpnetError: it is not served; with the log's last words.
        """
        self._wait_until(self._serves)
        with suppress(OSError):  # only quieter without: no router is looked for on the TAP
            Path(f"/proc/sys/net/ipv6/conf/{TAP}/disable_ipv6").write_text("1")
        with IPRoute() as ip:
            ip.addr("add", index=_index(ip), address=HOST, prefixlen=PREFIX_BITS)

    def wait_for_compiled(self) -> None:
        """Wait until all workers run compiled code.

        Raises:
            MpnetError: they do not, and nothing goes on; with the log's last words.
        """
        self._wait_until(self.compiled)

    def _wait_until(self, holds: Callable[[], bool]) -> None:
        heard, said = time.monotonic(), ""
        while not holds():
            if self._process.poll() is not None:
                raise MpnetError(f"'mpnet run' ended with status {self._process.returncode}", self.log_end())
            if (end := self.log_end()) != said:
                heard, said = time.monotonic(), end
            if time.monotonic() - heard > _SILENT_SECONDS:
                raise MpnetError(f"'mpnet run' does not go on, silent for {_SILENT_SECONDS:.0f} s", end)
            time.sleep(_LOOK_SECONDS)

    def _serves(self) -> bool:
        # Its socket comes into being, and listens, some time after it started.
        with suppress(MpnetError), Client(self._control) as client:
            return bool(client.call("device.list"))
        return False

    def log_end(self) -> str:
        """The last lines of the log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:])


_MPNET = "from mpnet.cli.main import main; main()"
"""The ``mpnet`` of this very installation, wherever its script is."""


def _index(ip: IPRoute) -> int:
    return int(ip.link_lookup(ifname=TAP)[0])
