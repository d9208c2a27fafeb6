"""mpnet as a person runs it: ``mpnet run`` in a process of its own, looked at from outside."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families

from mpnet.rpc.management import Client
from mpnet.segment.segment import Segment
from tests.real.netns import network_namespace, tap

MPNET = Path(sys.executable).with_name("mpnet")
PATIENCE = 120.0
"""Seconds: a limit for what hangs, far beyond what a slow and busy machine takes."""
_START_SECONDS = 240
"""As a start may compile the data path."""


class Running:
    """``mpnet run`` serving one device, ``net0``, on a TAP of the caller's network namespace.

    Args:
        folder: for sockets and the log; its path must be short, as a Unix socket's is at most 107 bytes.
        tap: the TAP's name; None with ``backend=`` among the words.
        queue_pairs: of the device.
        words: further words of the device string.
        options: further options of ``mpnet run``.
        wrapper: a command that runs it, with its options.
        environment: variables beside the test's own; ``{"MPNET_JIT": "0"}`` interprets the data path.

    Attributes:
        socket: path of the vhost-user socket.
        process: of ``mpnet run``.
        port: of its metrics.
    """

    def __init__(
        self,
        folder: Path,
        tap: str | None,
        queue_pairs: int = 1,
        *,
        words: str = "",
        options: Iterable[str] = (),
        environment: dict[str, str] | None = None,
        wrapper: Iterable[str] = (),
    ) -> None:
        self.folder = folder
        self.socket = folder / "net0.sock"
        self.control = folder / "control.sock"
        self._log_path = folder / "log"
        self.port = free_port()
        device = f"id=net0,socket={self.socket},queue-pairs={queue_pairs}" + (f",tap={tap}" if tap else "")
        self._command = [
            *wrapper, str(MPNET), "run", "--log-format", "json",
            "--device", f"{device},{words}" if words else device,
            "--control-socket", str(self.control), "--metrics", f"127.0.0.1:{self.port}", *options,
        ]  # fmt: skip
        self._environment = environment
        self.start()

    def start(self) -> None:
        """Start, or start again, and wait until it serves."""
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=os.environ | (self._environment or {})
            )
        try:
            self._wait_until_it_serves()
        except BaseException:
            self.stop()
            raise

    def _wait_until_it_serves(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self._serves():
            assert self.process.poll() is None, f"mpnet run ended: {self.log}"
            assert time.monotonic() < deadline, f"mpnet run does not serve: {self.log}"
            time.sleep(0.02)

    def _serves(self) -> bool:
        with contextlib.suppress(Exception), Client(self.control) as client:
            return bool(client.call("device.list"))
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> int:
        """End it as a service manager does; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """End it as a crash does; its workers live on."""
        self.process.kill()
        self.process.wait(PATIENCE)

    @property
    def log(self) -> str:
        """What it has logged so far: JSON, one event a line."""
        return self._log_path.read_text()

    def call(self, method: str, **params: Any) -> Any:
        """Ask over the management socket."""
        with Client(self.control) as client:
            return client.call(method, **params)

    def show(self) -> Any:
        """``device.show`` of the device."""
        return self.call("device.show", device="net0")

    def workers(self) -> list[int]:
        """Process ids of the workers, by slot."""
        segment = Segment.attach("net0")
        return [int(worker.pid) for worker in segment.workers if worker.pid]

    def metrics(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """One scrape: values by sample name and sorted labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=PATIENCE) as answer:
            text = answer.read().decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def metric(self, name: str, **labels: str) -> float:
        """Sum of one metric over all samples that carry these labels."""
        wanted = labels.items()
        return sum(
            value
            for (sample, has), value in self.metrics().items()
            if sample == name and wanted <= dict(has).items()
        )


@contextlib.contextmanager
def running_on_tap(queue_pairs: int = 1, **more: Any) -> Iterator[Running]:
    """A device on "tap0" of a network namespace of its own, and ``more`` of what ``Running`` takes."""
    with (
        tempfile.TemporaryDirectory(prefix="mpnet-") as folder,
        network_namespace(),
        tap("tap0"),
        Running(Path(folder), "tap0", queue_pairs, **more) as running,
    ):
        yield running


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses, and that Linux gives to nobody who asks for any."""
    while True:
        port = random.randrange(10_000, 30_000)
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Wait for something that the test has caused; ``what`` names it when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still waiting after {seconds} s: {what}"
        time.sleep(0.05)
