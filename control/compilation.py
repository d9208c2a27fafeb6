"""Compiling the data path in processes of their own, two at a time, while workers go on with what there is."""

import asyncio
import contextlib
import json
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from mpnet.control import program
from mpnet.errors import MpnetError
from mpnet.jit import cache

_COMPILE = "mpnet.workers.compile:main"
_SHARES = ("0", "1 wait 2")
"""What each process compiles, as ``workers.compile.main`` has it."""
_LAST_LINES = 5
_LOOK_SECONDS = 2.0


@dataclass(slots=True)
class Progress:
    """How far it has got.

    Attributes:
        done: functions.
        expected: functions in all, as far as is known.
        seconds: of processor time.
    """

    done: int = 0
    expected: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.done} of {self.expected} functions, {self.seconds:.0f} s of processor time"


Told = Callable[[Progress], None]


async def compile_data_path(told: Told, base: Path | None = None) -> bool:
    """Compile what is not compiled yet, and keep it.

    Args:
        told: called as it gets on.
        base: the folder below which it is kept, readable for all; this user's own one where none is given.

    Returns:
        Whether it is kept; ``cache.complaints`` says why not.

    Raises:
        MpnetError: it cannot be compiled; with the compiler's last words.
    """
    progress = Progress()
    reports: list[dict[str, Any]] = []

    def take(line: bytes) -> None:
        report = json.loads(line)
        progress.done += report.get("done", 0)
        progress.expected += report.get("expected", 0)
        if "kept" in report:
            reports.append(report)
        told(progress)

    async with _processes(_environment(base)) as processes:
        watching = asyncio.create_task(_watch(processes, progress, told))
        first, last = (asyncio.create_task(_follow(process, take)) for process in processes)
        try:
            await first
            _let_go_on(processes[1])
            await last
        finally:
            for task in (first, last, watching):
                task.cancel()
            await asyncio.gather(first, last, watching, return_exceptions=True)
    return _seal(reports, base)


def _environment(base: Path | None) -> dict[str, str]:
    environment = {**os.environ, "MPNET_JIT": "1"}
    if base:
        try:
            cache.make(cache.folder_below(base), 0o755)
        except OSError as error:
            raise MpnetError(
                f"no folder can be made below {base}: {error.strerror}", "choose one that you can write to"
            ) from None
        environment[cache.CHOSEN] = str(base)
    return environment


@asynccontextmanager
async def _processes(environment: Mapping[str, str]) -> AsyncIterator[list[Process]]:
    """Start one for each share; none outlives the block."""
    processes: list[Process] = []
    try:
        for share in _SHARES:
            words = program.command(_COMPILE, share)
            processes.append(
                await asyncio.create_subprocess_exec(
                    *words, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment
                )
            )
        yield processes
    except OSError as error:
        raise MpnetError(f"the data path cannot be compiled: {error.strerror}") from error
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()


async def _watch(processes: Sequence[Process], progress: Progress, told: Told) -> None:
    """Tell of processor time too: LLVM is silent for long, and who waits wants to know that it works."""
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        used = 0.0
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = psutil.Process(process.pid).cpu_times()
                used += times.user + times.system
        if used > progress.seconds:
            progress.seconds = used
            told(progress)


def _let_go_on(process: Process) -> None:
    """Tell it that the others are done: its stdin ends."""
    if process.stdin:
        process.stdin.close()


async def _follow(process: Process, take: Callable[[bytes], None]) -> None:
    """Take what it says until it ends.

    Raises:
        MpnetError: it failed.
    """
    assert process.stdout
    assert process.stderr
    words = asyncio.create_task(process.stderr.read())
    try:
        async for line in process.stdout:
            take(line)
        said = (await words).decode(errors="replace").splitlines()[-_LAST_LINES:]
    finally:
        words.cancel()
    if status := await process.wait():
        raise MpnetError(f"the data path cannot be compiled: status {status}: {' '.join(said)}")


def _seal(reports: list[dict[str, Any]], base: Path | None) -> bool:
    """Note in the cache that all of it is there, if it is."""
    for report in reports:
        for reason in report["complaints"]:
            cache.complain(reason)
    if any(report["lost"] for report in reports):
        return False
    for known in (cache.folders, cache.writable):
        known.cache_clear()
    folder = cache.folder_below(base) if base else cache.writable()
    return folder is not None and cache.seal(
        folder, sorted({name for report in reports for name in report["kept"]})
    )
