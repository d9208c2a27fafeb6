"""DPDK's testpmd as the driver: its virtio-user port attaches to a vhost-user socket."""

import os
import pty
import re
import select
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from mpnet.guest import debian

PARTS = ("dpdk",)

MAC = "52:54:00:80:00:02"
"""Of the port."""
_PROMPT = b"testpmd> "
_PATIENCE_SECONDS = 120.0


class Testpmd:
    """One testpmd with one virtio-user port, asked by its own commands; a context manager that ends it.

    Args:
        socket: the device's vhost-user socket.
        queue_pairs: to use.
        words: further words of the port's device string, as ``mrg_rxbuf=0``.
    """

    __test__ = False  # its name begins as a test's

    def __init__(self, socket: Path, queue_pairs: int, words: str) -> None:
        device = f"net_virtio_user0,path={socket},queues={queue_pairs},mac={MAC},{words}"
        cpu = min(os.sched_getaffinity(0))
        self._command = [
            str(debian.program("dpdk-testpmd")),
            # Shared memory without hugepages, in one file: vhost-user passes on few.
            *("--no-pci", "--no-huge", "-m", "512", "--single-file-segments", "--no-telemetry"),
            *("--lcores", f"0@{cpu},1@{cpu}", f"--file-prefix={socket.parent.name}", "--vdev", device, "--"),
            *("--interactive", "--nb-cores=1", "--total-num-mbufs=8192"),
            *(f"--rxq={queue_pairs}", f"--txq={queue_pairs}"),
        ]

    def __enter__(self) -> Self:
        # A terminal: into a pipe its answers would be held back.
        self._terminal, inside = pty.openpty()
        try:
            self._process = subprocess.Popen(
                self._command, stdin=inside, stdout=inside, stderr=inside, start_new_session=True
            )
            self._answer()
        except BaseException:
            self._end()
            raise
        finally:
            os.close(inside)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            os.close(self._terminal)

    def ask(self, command: str) -> str:
        """Give a command; its answer."""
        os.write(self._terminal, command.encode() + b"\n")
        return self._answer()

    def forward(self, mode: str) -> None:
        """Begin to send ("txonly") or to receive ("rxonly") on all queues."""
        self.ask(f"set fwd {mode}")
        self.ask("start")

    def statistics(self) -> dict[str, int]:
        """Counters of the port: "rx_q0_good_packets" and their like."""
        return {name: int(value) for name, value in re.findall(r"(\w+): (\d+)", self.ask("show port xstats 0"))}

    def _answer(self) -> str:
        """Read up to the next prompt."""
        said = b""
        while not said.endswith(_PROMPT):
            ready, _, _ = select.select([self._terminal], [], [], _PATIENCE_SECONDS)
            assert ready, f"testpmd does not answer: {said.decode()}"
            try:
                said += os.read(self._terminal, 1 << 16)
            except OSError as ended:
                raise AssertionError(f"testpmd ended: {said.decode()}") from ended
        return said.decode().replace("\r", "")
