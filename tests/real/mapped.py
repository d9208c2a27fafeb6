"""Guest memory as a process has it mapped."""

import re
from pathlib import Path
from typing import NamedTuple

_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ [0-9a-f]+ \S+ (\d+) +(\S.*)$")
_BACKENDS = ("memory-backend-memfd", "qemu_back_mem")
"""How QEMU names the files of its memory back-ends."""


class Mapped(NamedTuple):
    """One file of guest memory: its name, and the bytes of it the process has touched."""

    name: str
    resident: int


def guest_memory(pid: int) -> dict[int, Mapped]:
    """The files of guest memory a process has mapped, by inode."""
    files: dict[int, Mapped] = {}
    inode, name = 0, ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if mapping := _MAPPING.match(line):
            inode, name = int(mapping[1]), mapping[2]
        elif line.startswith("Rss:") and any(backend in name for backend in _BACKENDS):
            touched = files.get(inode, Mapped(name, 0)).resident + int(line.split()[1]) * 1024
            files[inode] = Mapped(name, touched)
        elif "-" in line.split()[0]:
            name = ""  # the head of a mapping without a file
    return files
