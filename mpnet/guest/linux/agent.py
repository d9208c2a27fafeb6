"""The host's side of the guest's agent: shell commands in, outputs and exit statuses out (see agent.sh)."""

import base64
import itertools
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from mpnet.errors import MpnetError


class GuestError(MpnetError):
    """A guest that ended, does not answer, or in which a command failed."""


@dataclass(frozen=True)
class Completed:
    """What a command in the guest left.

    Attributes:
        command: what was run.
        returncode: its exit status, 128 and the signal's number where a signal ended it.
        stdout: its standard output.
        stderr: its standard error.
    """

    command: str
    returncode: int
    stdout: str
    stderr: str


class Job:
    """A command running in the guest."""

    def __init__(self, command: str, kill: Callable[[], None]) -> None:
        self.command = command
        self._kill = kill
        self._ended = threading.Event()
        self._completed: Completed | None = None

    def wait(self, timeout: float) -> Completed:
        """Give what the command left.

        Args:
            timeout: seconds; a command that takes longer is killed in the guest.

        Raises:
            GuestError: it took too long, or the guest rebooted or ended under it.
        """
        if not self._ended.wait(timeout):
            with suppress(GuestError):
                self.kill()
            raise GuestError(f"the guest's command {self.command!r} did not end in {timeout:g} s")
        if self._completed is None:
            raise GuestError(f"the guest rebooted or ended while it ran {self.command!r}")
        return self._completed

    def kill(self) -> None:
        """End the command and all it started; `wait` then gives its status."""
        self._kill()

    def end(self, completed: Completed | None) -> None:
        """Tell waiters what came out: None where the guest took the command along."""
        self._completed = completed
        self._ended.set()


class Agent:
    """Sends commands to the guest and hands answers to their jobs, from a thread of its own.

    Args:
        stream: our end of the virtio-serial port's socket; closed by `close`.
    """

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._identifiers = itertools.count(1)
        self._changed = threading.Condition()
        self._jobs: dict[int, Job] = {}
        self._boots = 0
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="guest-agent", daemon=True)
        self._thread.start()

    @property
    def boots(self) -> int:
        """How often the guest said it is ready: one more after each reboot."""
        with self._changed:
            return self._boots

    def wait_ready(self, boots: int, timeout: float) -> bool:
        """Wait until the guest was ready `boots` times, or is gone; False where neither came in `timeout` s."""
        with self._changed:
            return self._changed.wait_for(lambda: self._boots >= boots or self._closed, timeout)

    def start(self, command: str) -> Job:
        """Start a shell command in the guest.

        Raises:
            GuestError: the guest is gone.
        """
        identifier = next(self._identifiers)
        job = Job(command, lambda: self._send(f"kill {identifier}"))
        with self._changed:
            self._jobs[identifier] = job
        # One line each; the port gives as much back pressure as the guest needs.
        self._send(f"run {identifier} {base64.b64encode(command.encode()).decode()}")
        return job

    def close(self) -> None:
        """Hang up: every job still running ends with an error."""
        self._stream.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._stream.close()

    def _send(self, line: str) -> None:
        try:
            self._stream.sendall(line.encode() + b"\n")
        except OSError as error:
            raise GuestError(f"the guest's agent is gone: {error}") from error

    def _serve(self) -> None:
        """Read lines until the guest or `close` hangs up."""
        # An error is a QEMU that was killed with data on the way: as good as an end.
        with self._stream.makefile("rb") as lines, suppress(OSError):
            for line in lines:
                self._take(line.decode(errors="replace").split())
        with self._changed:
            self._closed = True
            self._end_jobs()

    def _take(self, words: list[str]) -> None:
        """Act on one line; a line cut short by a reboot is none of those known, and left."""
        match words:
            case ["ready", _, _]:
                with self._changed:
                    self._boots += 1
                    self._end_jobs()
            case ["done", identifier, status, stdout, stderr]:
                with self._changed:
                    job = self._jobs.pop(int(identifier), None)
                if job is not None:
                    job.end(Completed(job.command, int(status), _decoded(stdout), _decoded(stderr)))

    def _end_jobs(self) -> None:
        for job in self._jobs.values():
            job.end(None)
        self._jobs.clear()
        self._changed.notify_all()


def _decoded(field: str) -> str:
    return "" if field == "-" else base64.b64decode(field).decode(errors="replace")
