"""Programs of other systems, started and ended with the bench."""

import os
import signal
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mpnet.config import inherited
from mpnet.errors import MpnetError
from mpnet.guest import debian
from mpnet.guest.lifeline import bound_to_us

_STOP_SECONDS = 10.0
_LOG_LINES = 5


class Child:
    """A running program that writes a log.

    Attributes:
        process: it.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process = process
        self._log = log

    def check(self) -> None:
        """Make sure that it still runs.

        Raises:
            MpnetError: it does not; with the log's last words.
        """
        if self.process.poll() is not None:
            raise MpnetError(f"{self._log.stem} ended with status {self.process.returncode}", self.log_end())

    def log(self) -> str:
        """All that it has printed."""
        return self._log.read_text(errors="replace")

    def log_end(self) -> str:
        """The last lines of the log."""
        return "\n".join(self.log().splitlines()[-_LOG_LINES:])

    def tell(self, command: str) -> None:
        """Write a line to its standard input; it was started with ``told``."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()

    def sleep(self) -> None:
        """Keep it from running until ``wake``."""
        self.process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let it run."""
        self.process.send_signal(signal.SIGCONT)


def absent(program: str) -> str:
    """Why a program of Debian's cannot be run here; empty where it can."""
    try:
        debian.program(program)
    except MpnetError as error:
        return str(error)
    return ""


def said(*command: str | Path) -> str:
    """The first line that a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_STOP_SECONDS)
    return ((done.stdout or done.stderr).splitlines() or [""])[0]


@contextmanager
def child(
    command: Sequence[str],
    log: Path,
    cpus: Iterable[int],
    *,
    fds: Sequence[int] = (),
    ask_first: bool = False,
    told: bool = False,
) -> Iterator[Child]:
    """Run a program for as long as the block lasts; it ends with this process, should that be killed.

    Args:
        command: words of it.
        log: takes what it prints.
        cpus: processors it may use.
        fds: descriptors it inherits.
        ask_first: it has something to clear up: SIGTERM and some time before SIGKILL.
        told: it takes commands from its standard input.
    """
    with log.open("wb") as output, affinity(cpus):
        process = subprocess.Popen(
            [*bound_to_us("TERM" if ask_first else "KILL"), *command],
            stdin=subprocess.PIPE if told else subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=fds,
            env={"MPNET_JIT": "1", **inherited.environment()},
            start_new_session=True,  # Ctrl-C is for us: we stop it in our own order
        )
    try:
        yield Child(process, log)
    finally:
        process.send_signal(signal.SIGCONT)  # it may sleep
        _end(process, ask_first=ask_first)
        if process.stdin is not None:
            process.stdin.close()


@contextmanager
def affinity(cpus: Iterable[int]) -> Iterator[None]:
    """Be on other processors for a moment: a child begins where its parent is."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _end(process: "subprocess.Popen[bytes]", *, ask_first: bool) -> None:
    if ask_first:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        else:
            return
    process.kill()
    process.wait()
