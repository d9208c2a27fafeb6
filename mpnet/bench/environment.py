"""What figures depend on: the machine, and who has its processors."""

import platform
import subprocess
from pathlib import Path

STEAL = 7
"""Place of stolen time among ``processor_times``."""


def processor_times() -> list[int]:
    """Ticks of all processors by kind, as the first line of /proc/stat has them; stolen ones are the eighth."""
    return [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]


def schedule(task: Path = Path("/proc/thread-self")) -> tuple[int, int]:
    """Nanoseconds that a thread, this one unless told otherwise, has run and waited to run."""
    ran, waited, _ = (task / "schedstat").read_text().split()
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
