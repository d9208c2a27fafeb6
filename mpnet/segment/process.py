"""Processes told from later ones of the same number, by what no clock moves: their start in ticks since the boot.

A time of day would not do: a step of the clock moves each process's start, as the kernel tells it, along.
"""

from pathlib import Path

_PROC = Path("/proc")
_BOOT_ID = _PROC / "sys/kernel/random/boot_id"
_STATE = 0
_START = 19
"""Fields of /proc/PID/stat behind the command's name: 3 and 22 of proc(5)."""
_DEAD = {b"Z", b"X"}


def boot_id() -> bytes:
    """Tell this boot of the machine from others; empty where the kernel does not say."""
    try:
        return _BOOT_ID.read_bytes().strip()
    except OSError:
        return b""


def start_ticks(pid: int) -> int:
    """When a process was started, in clock ticks since the boot; 0 where there is none, or it has ended."""
    try:
        # The name, in parentheses, may hold anything.
        fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b") ")[2].split()
    except OSError:
        return 0
    return 0 if len(fields) <= _START or fields[_STATE] in _DEAD else int(fields[_START])


def title(pid: int) -> str:
    """What a process calls itself, its command line; empty where it cannot be read."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().rstrip(b"\0").decode(errors="replace")
    except OSError:
        return ""


def worker_title(device: str, slot: int | None = None) -> str:
    """What a worker calls itself; without its slot, what each worker of the device begins with."""
    return f"mpnet: {device} worker {'' if slot is None else slot}"


def lives(pid: int, ticks: int, boot: bytes) -> bool:
    """Whether the process that began ``ticks`` after the boot ``boot`` is still there."""
    return ticks > 0 and boot == boot_id() and start_ticks(pid) == ticks
