"""Trials on this host: a process that runs them one after the other, and is replaced where one breaks it."""

import select
import subprocess
import sys
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

import msgspec

from mpnet.errors import MpnetError
from mpnet.experiment.host import REFUSED
from mpnet.experiment.plan import Trial
from mpnet.experiment.record import Record, begin, decode
from mpnet.guest.lifeline import bound_to_us

_PATIENCE_SECONDS = 240.0
"""Beside the time of the trial: the first one compiles, and a guest may have to boot."""
_STOP_SECONDS = 30.0
_LAST_LINES = 5


class Host:
    """The process in which trials are run; a context manager that ends it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def run(self, trial: Trial) -> Record:
        """Run a trial; one that fails, or breaks or hangs the process, has its reason in ``error``.

        Raises:
            MpnetError: this user can run none.
        """
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        line = b""
        try:
            process.stdin.write(msgspec.json.encode(trial) + b"\n")
            process.stdin.flush()
            patience = trial.seconds + trial.warm_up + _PATIENCE_SECONDS
            ready, _, _ = select.select([process.stdout], [], [], patience)
            line = process.stdout.readline() if ready else b""
        except BrokenPipeError:
            ready = [process.stdout]
        if line.endswith(b"\n"):
            return decode(line)
        return _failure(trial, self._reason(hung=not ready))

    def _start(self) -> "subprocess.Popen[bytes]":
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
            return f"the trial hung: no answer {_PATIENCE_SECONDS:.0f} s after its time"
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
        for trial in trials:
            yield host.run(trial)
