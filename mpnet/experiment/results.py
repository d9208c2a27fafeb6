"""A folder of results: what was asked, what came of each trial, and enough to go on after an interruption.

sweep.toml      the sweep, as it was
manifest.json   what this folder is: versions, digest of the sweep, how many trials there are to be
trials.jsonl    a record a line, on the disk before the next trial begins
trials.parquet  a row a trial, factors and figures in columns; written at the end
samples.parquet a row for each time, trial and queue pair or worker; likewise
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import msgspec

import mpnet
from mpnet.errors import MpnetError
from mpnet.experiment.record import SCHEMA, Record, decode
from mpnet.experiment.sweep import Sweep

SWEEP, MANIFEST, TRIALS = "sweep.toml", "manifest.json", "trials.jsonl"


class Manifest(msgspec.Struct, kw_only=True):
    """What a folder of results is.

    Attributes:
        schema: of the records in it.
        name: of the experiment.
        question: it shall answer.
        mpnet: version that made the folder.
        sweep_sha256: of the sweep's file.
        trials: how many there are to be.
        seconds: that each is measured for.
        warm_up: seconds before that.
        seed: of their order.
        created: UTC, ISO 8601.
    """

    schema: int
    name: str
    question: str
    mpnet: str
    sweep_sha256: str
    trials: int
    seconds: float
    warm_up: float
    seed: int
    created: str


class Folder:
    """Results that are being written; made by ``open_folder``.

    Attributes:
        path: of the folder.
        done: ids of the trials that have figures.
        repaired: bytes of a last line that was cut short and has been removed.
    """

    def __init__(self, path: Path, lines: IO[bytes]) -> None:
        self.path = path
        self._lines = lines
        self.repaired = _repair(lines)
        lines.seek(0)
        self.done = {record.trial for record in map(decode, lines) if not record.error}

    def append(self, record: Record) -> None:
        """Write a record; it is on the disk when this returns.

        Raises:
            MpnetError: it cannot be written.
        """
        with _writing(self.path):
            self._lines.write(msgspec.json.encode(record) + b"\n")
            self._lines.flush()
            os.fsync(self._lines.fileno())
        if not record.error:
            self.done.add(record.trial)


def _repair(lines: IO[bytes]) -> int:
    """Remove a last line without an end: its trial was never done. How many bytes it had."""
    lines.seek(0)
    whole = lines.read()
    kept = whole.rfind(b"\n") + 1
    if kept < len(whole):
        lines.truncate(kept)
        os.fsync(lines.fileno())
    return len(whole) - kept


@contextmanager
def open_folder(path: Path, sweep: Sweep, trials: int) -> Iterator[Folder]:
    """Make a folder of results, or go on with one of the same sweep; nobody else may write it meanwhile.

    Raises:
        MpnetError: it is another sweep's, or another process is at it, or it cannot be written.
    """
    with ExitStack() as stack:
        with _writing(path):
            path.mkdir(parents=True, exist_ok=True)
            lines = stack.enter_context((path / TRIALS).open("a+b"))
            _lock(path, lines)
            _claim(path, sweep, trials)
            folder = Folder(path, lines)
        yield folder


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say of what the system refuses meanwhile that it is about the results."""
    try:
        yield
    except OSError as error:
        raise MpnetError(
            f"cannot write results to {path}: {error.strerror or error}", "choose another folder with -o"
        ) from error


def _lock(path: Path, lines: IO[bytes]) -> None:
    try:
        fcntl.flock(lines, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise MpnetError(
            f"another process is writing results to {path}", "wait for it, or choose another folder with -o"
        ) from None


def _claim(path: Path, sweep: Sweep, trials: int) -> None:
    """Write sweep and manifest, or make sure that those there are this sweep's."""
    if (path / MANIFEST).exists():
        there = read_manifest(path)
        if there.sweep_sha256 != sweep.digest:
            raise MpnetError(
                f"{path} has results of another sweep, or of this one before it was changed",
                f"choose another folder with -o, or go on with the sweep as it was: {path / SWEEP}",
            )
        return
    foreign = sorted(each.name for each in path.iterdir() if each.name not in {SWEEP, TRIALS})
    if foreign or (path / TRIALS).stat().st_size:
        raise MpnetError(
            f"{path} is no folder of results, but has {', '.join(foreign) or TRIALS}", "choose another"
        )
    (path / SWEEP).write_text(sweep.text, encoding="utf-8")
    manifest = Manifest(
        schema=SCHEMA,
        name=sweep.design.name,
        question=sweep.design.question,
        mpnet=mpnet.__version__,
        sweep_sha256=sweep.digest,
        trials=trials,
        seconds=sweep.design.seconds,
        warm_up=sweep.design.warm_up,
        seed=sweep.design.seed,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_manifest(path, manifest)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write it whole or not at all."""
    draft = path / f".{MANIFEST}"
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    draft.replace(path / MANIFEST)


def read_manifest(path: Path) -> Manifest:
    """What a folder says it is.

    Raises:
        MpnetError: it is no folder of results.
    """
    try:
        return msgspec.json.decode((path / MANIFEST).read_bytes(), type=Manifest)
    except OSError:
        raise MpnetError(
            f"{path} is no folder of results: it has no {MANIFEST}", "'mpnet experiment run' makes one"
        ) from None
    except msgspec.MsgspecError as error:
        raise MpnetError(f"{path / MANIFEST} cannot be read: {error}") from None


def read_records(path: Path) -> list[Record]:
    """The last record of each trial, in the order of the plan; a last line that is cut short is left out.

    Raises:
        MpnetError: a line is no record, or of another version.
    """
    found: dict[str, Record] = {}
    for line in (path / TRIALS).read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            record = decode(line)
            found[record.trial] = record
    return sorted(found.values(), key=lambda record: record.order)


def failed(records: Sequence[Record]) -> list[Record]:
    """Those without figures."""
    return [record for record in records if record.error]
