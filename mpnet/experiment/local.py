"""Trials on this host: a process that runs them one after the other, and is replaced where one breaks it."""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import msgspec

from mpnet.errors import MpnetError
from mpnet.experiment.host import REFUSED
from mpnet.experiment.plan import Trial, sessions
from mpnet.experiment.record import Record, begin, decode
from mpnet.guest.lifeline import bound_to_us
from mpnet.ready import readable

_PATIENCE_SECONDS = 240.0
"""Beside the time of the trials, for each system: the first one compiles, and a guest may have to boot."""
_STOP_SECONDS = 30.0
_LAST_LINES = 5
_READ_BYTES = 1 << 16


class Host:
    """The process in which trials are run; a context manager that ends it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def run(self, trials: Sequence[Trial]) -> Iterator[Record]:
        """Run a session's trials; those that fail, or break or hang the process, have the reason in ``error``.

        Raises:
            MpnetError: this user can run none.
        """
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended, as its answer will tell
            process.stdin.write(msgspec.json.encode(trials) + b"\n")
            process.stdin.flush()
        # Before the first record all systems of the session have been started and warmed up.
        patience = _PATIENCE_SECONDS * len({trial.factors for trial in trials})
        patience += sum(trial.seconds + trial.warm_up for trial in trials)
        for number in range(len(trials)):
            line = self._line(process.stdout.fileno(), patience)
            if not line:
                reason = self._reason(hung=line is None)
                yield from (_failure(each, reason) for each in trials[number:])
                return
            yield decode(line)

    def _line(self, fd: int, patience: float) -> bytes | None:
        """The next line, empty at the end; None where none came in ``patience`` seconds. What follows is kept."""
        while b"\n" not in self._rest:
            if not readable(fd, seconds=patience):
                return None
            data = os.read(fd, _READ_BYTES)
            if not data:
                return b""
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _start(self) -> "subprocess.Popen[bytes]":
        self._rest = b""
        self._process = subprocess.Popen(
            [*bound_to_us("TERM"), sys.executable, "-m", "mpnet.experiment.host"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us: we stop it in our own order
        )
        return self._process

    def _reason(self, *, hung: bool) -> str:
        """End the process and say why it did not answer."""
        process = self._process
        assert process is not None
        if hung:
            self._end()
            return "the trial hung: no answer long after its time"
        _, said = process.communicate()
        self._process = None
        last = " / ".join(said.decode(errors="replace").splitlines()[-_LAST_LINES:])
        if process.returncode == REFUSED:
            raise MpnetError(last)
        return f"the process of the trial ended with status {process.returncode}: {last}"

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.communicate(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _failure(trial: Trial, reason: str) -> Record:
    record = begin(trial)
    record.error = reason
    return record


def run_here(trials: Iterable[Trial]) -> Iterator[Record]:
    """Run trials on this host, one at a time and in order."""
    with Host() as host:
        for session in sessions(trials):
            yield from host.run(session)
