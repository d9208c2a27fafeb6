"""Where a run took place: all that figures depend on."""

import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numba
import numpy as np

from mpnet.bench.bed import Bed
from mpnet.bench.system import System

STEAL = 7
"""Place of stolen time among ``processor_times``."""


class Environment(msgspec.Struct, kw_only=True):
    """The machine, the software and the state they were in.

    Attributes:
        kernel: release and version.
        cpu: model.
        cpus: processors on line.
        driver_cpu: where the driver and the host's generator ran.
        device_cpu: where devices ran.
        versions: of what was compared and of what it is made of.
        flags: options of the run.
        commit: of the source tree; empty outside one.
        load_average: over a minute, before and after.
        steal: share of all processors' time that the hypervisor took during the run.
        wait: share of the driver's time at full speed in which something else had its processor.
        noise: ratios that mean nothing, and why.
        skipped: systems that could not be run here, and why.
    """

    kernel: str
    cpu: str
    cpus: int
    driver_cpu: int
    device_cpu: int
    versions: dict[str, str]
    flags: dict[str, Any]
    commit: str
    load_average: list[float]
    steal: float
    wait: float
    noise: list[str]
    skipped: dict[str, str]


class Observer:
    """Looks at the machine when made, and again when asked for the environment."""

    def __init__(self) -> None:
        self._ran = self._waited = 0
        self._load = os.getloadavg()[0]
        self._before = processor_times()

    @contextmanager
    def watch_thread(self) -> Iterator[None]:
        """Note how long the calling thread ran in the block, and how long it had to wait for its processor."""
        ran, waited = schedule()
        yield
        now_ran, now_waited = schedule()
        self._ran += now_ran - ran
        self._waited += now_waited - waited

    def environment(self, bed: Bed, systems: Sequence[System], flags: dict[str, Any]) -> Environment:
        """What there is to say at the end of a run, but for noise and what was skipped."""
        versions = {"python": platform.python_version(), "numba": numba.__version__, "numpy": np.__version__}
        spent = [now - then for now, then in zip(processor_times(), self._before, strict=True)]
        return Environment(
            kernel=f"{platform.release()} {platform.version()}",
            cpu=cpu_model(),
            cpus=os.cpu_count() or 1,
            driver_cpu=bed.driver_cpu,
            device_cpu=bed.device_cpu,
            versions=versions | {system.name: system.version() for system in systems},
            flags=flags,
            commit=commit(),
            load_average=[self._load, os.getloadavg()[0]],
            steal=spent[STEAL] / max(1, sum(spent[: STEAL + 1])),
            wait=self._waited / max(1, self._ran + self._waited),
            noise=[],
            skipped={},
        )


def processor_times() -> list[int]:
    """Ticks of all processors by kind, as the first line of /proc/stat has them; stolen ones are the eighth."""
    return [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]


def schedule() -> tuple[int, int]:
    """Nanoseconds that this thread has run, and waited to run."""
    ran, waited, _ = Path("/proc/thread-self/schedstat").read_text().split()
    return int(ran), int(waited)


def cpu_model() -> str:
    """The processors' name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def commit() -> str:
    """Of the source tree this package is in; empty outside one."""
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.strip()
