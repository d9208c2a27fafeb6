"""Runs tests against mutated copies of the sources, several at a time, each in a process of its own."""

import contextlib
import gc
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.mutants.mutations import Mutation
from tests.mutants.suites import suite_of

ROOT = Path(__file__).parents[2]
NOTICED, SURVIVED, HUNG = "noticed", "survived", "hung"
"""``hung`` counts as noticed: the tests did not end in time."""
SECONDS = 400.0
"""Within which the tests of a file end, however busy the machine is, unless they hang."""
_COPIED = ("control", "dashboards", "docs", "mpnet", "packaging", "tests", "workers", "pyproject.toml")
_LIBRARIES = (
    *("click", "msgspec", "numba", "numpy", "posix_ipc", "prometheus_client", "psutil", "pyroute2"),
    *("rich", "scapy.layers.inet", "scapy.layers.inet6", "scapy.layers.l2", "structlog"),
)
"""Imported once, for all trials to have: that takes longer than most of them run."""


class Copy:
    """A copy of the sources, in which one mutation at a time is tried."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        for name in _COPIED:
            source = ROOT / name
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
                shutil.copytree(source, folder / name, symlinks=True, ignore=ignored)
            else:
                shutil.copy2(source, folder / name)

    def tests(self, file: str) -> list[str]:
        """The test files that should notice a slip in ``file``; one that were not there would fail always."""
        names = [f"tests/{name}.py" for name in suite_of(file)]
        assert all((self.root / name).exists() for name in names), names
        return names


@dataclass
class _Trial:
    mutation: Mutation
    copy: Copy
    source: str
    pid: int = 0
    began: float = field(default_factory=time.monotonic)
    hung: bool = False

    def begin(self) -> None:
        """Mutate the copy, and fork the tests."""
        tests = self.copy.tests(self.mutation.file)
        (self.copy.root / self.mutation.file).write_text(self.mutation.apply(self.source))
        self.pid = os.fork()
        if self.pid == 0:
            _run_tests(self.copy.root, tests)

    def end(self, status: int) -> dict[str, Any]:
        """Put the source back; what came of it."""
        (self.copy.root / self.mutation.file).write_text(self.source)
        said = (self.copy.root / "said").read_text(errors="replace").splitlines()
        failed = [line for line in said if line.startswith(("FAILED", "ERROR"))]
        outcome = HUNG if self.hung else NOTICED if status else SURVIVED
        # A worker that ends its process, as by a stray access, ends the tests too.
        by = failed[-1].split(" - ")[0].split(" ", 1)[-1] if failed else f"status {status}" if status else ""
        return {
            "key": self.mutation.key(self.source), "file": self.mutation.file, "line": self.mutation.line,
            "kind": self.mutation.kind, "words": self.mutation.words(), "outcome": outcome, "by": by,
            "seconds": round(time.monotonic() - self.began, 1),
        }  # fmt: skip


def _run_tests(root: Path, tests: list[str]) -> None:
    """In the child: what ``pytest -x`` of the copy says; never returns."""
    status = 99
    try:
        os.setsid()
        said = os.open(root / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(said, stream)
        os.chdir(root)
        for name in [name for name in sys.modules if name.split(".")[0] in {"tests", "mpnet"}]:
            del sys.modules[name]
        sys.path.insert(0, str(root))
        os.environ |= {"MPNET_JIT": "0", "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True
        status = int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--tb=no", "--timeout=60", *tests]))
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001 - nothing of the parent's may run here
        traceback.print_exc()
    finally:
        os._exit(status)


def run(left: list[Mutation], jobs: int) -> Iterator[dict[str, Any]]:
    """Try mutations, ``jobs`` at a time; what came of each, as it ends."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies = [Copy(Path(tempfile.mkdtemp(dir=folder))) for _ in range(jobs)]
        yield from _run(left, copies)


def _run(left: list[Mutation], free: list[Copy]) -> Iterator[dict[str, Any]]:
    os.environ["MPNET_JIT"] = "0"
    for name in _LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    sources = {mutation.file: (free[0].root / mutation.file).read_text() for mutation in left}
    waiting = list(reversed(left))
    running: dict[int, _Trial] = {}
    while waiting or running:
        while free and waiting:
            mutation = waiting.pop()
            trial = _Trial(mutation, free.pop(), sources[mutation.file])
            trial.begin()
            running[trial.pid] = trial
        _end_those_that_hang(list(running.values()))
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in running:
            trial = running.pop(pid)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # what its tests may have left running
            free.append(trial.copy)
            yield trial.end(os.waitstatus_to_exitcode(status))
        elif pid == 0:
            time.sleep(0.05)


def _end_those_that_hang(running: list[_Trial]) -> None:
    for trial in running:
        if time.monotonic() - trial.began > SECONDS and not trial.hung:
            trial.hung = True
            os.killpg(trial.pid, signal.SIGKILL)
