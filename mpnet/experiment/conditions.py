"""The machine that a trial takes place on, and the state it is in meanwhile."""

import os
import platform
import socket
from collections.abc import Iterable
from pathlib import Path

import numba
import numpy as np
import psutil

from mpnet.bench.bed import Bed
from mpnet.bench.environment import STEAL, commit, cpu_model, processor_times
from mpnet.experiment.record import Conditions, Machine
from mpnet.experiment.work import Done

NOISY_STEAL = 0.05
NOISY_OTHERS = 0.10
NOISY_WAIT = 0.05
"""Shares above which a trial's figures are doubtful."""
_IDLE, _IOWAIT = 3, 4
_CPUS = Path("/sys/devices/system/cpu")
_GOVERNOR = _CPUS / "cpu0/cpufreq/scaling_governor"
_CGROUP = Path("/sys/fs/cgroup")


def machine(bed: Bed, measured: dict[str, str]) -> Machine:
    """This machine and the versions of what is measured on it."""
    versions = {"python": platform.python_version(), "numba": numba.__version__, "numpy": np.__version__}
    return Machine(
        host=socket.gethostname(),
        kernel=f"{platform.release()} {platform.version()}",
        cpu=cpu_model(),
        cpus=os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        governor=_GOVERNOR.read_text().strip() if _GOVERNOR.exists() else "",
        driver_cpus=list(bed.driver_cpus),
        device_cpus=list(bed.device_cpus),
        versions=versions | measured,
        commit=commit(),
    )


class Watch:
    """Looks at the machine when made and again when asked."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0]
        self._busy = _busy_seconds()
        self._ticks = processor_times()
        self._throttled = _throttled()

    def conditions(self, done: Done) -> Conditions:
        """What it was like since, while this was done."""
        ticks = [now - then for now, then in zip(processor_times(), self._ticks, strict=True)][: STEAL + 1]
        whole = max(1, sum(ticks))
        busy = whole - ticks[_IDLE] - ticks[_IOWAIT] - ticks[STEAL]
        own = (_busy_seconds() - self._busy) * os.sysconf("SC_CLK_TCK")
        frequency = psutil.cpu_freq()
        return Conditions(
            load_average=self._load,
            steal=ticks[STEAL] / whole,
            others=max(0.0, (busy - own) / whole),
            wait=done.wait,
            throttled=_throttled() - self._throttled,
            mhz=frequency.current if frequency else 0.0,
            distance_ns=done.distance_ns,
        )


def anomalies(conditions: Conditions, restarts: int, faults: int) -> list[str]:
    """What makes a trial's figures doubtful.

    Args:
        conditions: of the trial.
        restarts: of workers meanwhile.
        faults: of rings.
    """
    found = []
    for what, share, limit in (
        ("the hypervisor took", conditions.steal, NOISY_STEAL),
        ("other work had", conditions.others, NOISY_OTHERS),
        ("the driver waited for its processor for", conditions.wait, NOISY_WAIT),
    ):
        if share is not None and share > limit:
            found.append(f"{what} {share:.0%} of the time (limit {limit:.0%})")
    if conditions.throttled:
        found.append(f"processors were throttled {conditions.throttled} times")
    if restarts:
        found.append(f"workers were replaced {restarts} times")
    if faults:
        found.append(f"rings were broken {faults} times")
    return found


def _busy_seconds() -> float:
    """Processor time that this process, all below it and those it had have taken: a trial's own."""
    own = psutil.Process()
    return sum(sum(_times(each)) for each in (own, *own.children(recursive=True)))


def _times(process: psutil.Process) -> tuple[float, ...]:
    try:
        times = process.cpu_times()
    except psutil.Error:  # it has ended
        return ()
    return times.user, times.system, times.children_user, times.children_system


def _throttled() -> int:
    """Times that processors were slowed down for heat, and this process's group for its quota, so far."""
    heat = sum(_number(path) for path in _CPUS.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
    return heat + sum(_quota(group) for group in _groups())


def _groups() -> Iterable[Path]:
    """This process's control group and those above it."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        own = _CGROUP / line.rpartition(":")[2].lstrip("/")
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(_CGROUP))


def _quota(group: Path) -> int:
    try:
        words = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(words.get("nr_throttled", 0))


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
