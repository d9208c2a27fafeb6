"""What processes hold: file descriptors, and memory of guests."""

import socket
from pathlib import Path

import psutil

from tests.real.running import Running, wait_until

GUEST_MEMORY = "/memfd:memory-backend-memfd"
"""How Linux names the memory that QEMU shares."""


def open_files(pid: int) -> list[str]:
    """What the file descriptors of a process lead to, sorted; sockets and the like without their numbers."""
    files = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            files.append(str(fd.readlink()).partition(":[")[0])
        except FileNotFoundError:
            continue
    return sorted(files)


def guest_memory(pid: int) -> set[str]:
    """The guest memory a process has mapped: a name for each file."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split()[4] for line in maps if GUEST_MEMORY in line}


def asked(running: Running) -> bool:
    """Whether control still holds the connection of a question, perhaps of one that has its answer."""
    for connection in psutil.Process(running.process.pid).net_connections("all"):
        if connection.family == socket.AF_UNIX:
            if connection.laddr == str(running.control) and connection.raddr:
                return True
        elif connection.laddr.port == running.port and connection.status != psutil.CONN_LISTEN:
            return True
    return False


def footprint(running: Running) -> dict[str, list[str]]:
    """Files and guest memory of control and of each worker."""
    wait_until(lambda: not asked(running), "control has closed what was asked over")
    processes = {"control": running.process.pid}
    processes |= {f"worker {slot}": pid for slot, pid in enumerate(running.workers())}
    return {name: [*open_files(pid), *(f"memory {len(guest_memory(pid))}",)] for name, pid in processes.items()}


def expect_footprint(running: Running, expected: dict[str, list[str]]) -> None:
    """Wait until control and workers hold exactly what they held in the same state before."""
    found: dict[str, list[str]] = {}

    def settled() -> bool:
        nonlocal found
        found = footprint(running)
        return found == expected

    try:
        wait_until(settled, "files and memory are as before")
    except AssertionError:
        assert found == expected


def ended(pid: int) -> bool:
    """Whether a process, child of another one, is gone or only waits to be reaped."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"
