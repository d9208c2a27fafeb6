"""What is tried: each cell is a row of the table in docs/support.md."""

import itertools
from dataclasses import dataclass

RELEASES = ("trixie", "testing")
"""Releases of Debian that get a root of their own, and that parts are taken from beside the machine's own."""

_OWN_AND_OTHERS = ("", *RELEASES)
_DRIVERS = ("tests/test_guest_driver.py", "tests/test_testpmd.py", "tests/test_without_tap_real.py")
_GUESTS = (
    "tests/test_linux_guest.py",
    "tests/test_guest_command.py",
    "tests/test_guest_lifecycle.py",
    "tests/test_guest_memory.py",
    "tests/test_guest_traffic.py",
    "tests/test_exact_guest.py",
)


@dataclass(frozen=True)
class Cell:
    """One thing to try.

    Attributes:
        command: what is run.
        root: the release whose root it is run in; empty for this machine.
        parts: that it is about, and the releases that they come from; this machine's own where empty.
    """

    command: tuple[str, ...]
    root: str = ""
    parts: tuple[tuple[str, str], ...] = ()

    @property
    def variable(self) -> str:
        """MPNET_PARTS for it."""
        return ",".join(f"{name}={release}" for name, release in self.parts if release)

    @property
    def words(self) -> str:
        """The command as a person types it."""
        return f"{self.command[0]} {self.command[-1]}"

    @property
    def name(self) -> str:
        """What it is chosen by."""
        return " ".join(filter(None, (self.root, self.variable or "own", self.words)))


def cells() -> list[Cell]:
    """Give all of them: the commands of the README in each release, and the parts' cross product here."""
    commands = [("make", target) for target in ("unit", "demo", "test")]
    made = [Cell(command, release) for command in commands for release in RELEASES]
    for qemu, kernel in itertools.product(_OWN_AND_OTHERS, _OWN_AND_OTHERS):
        made += [Cell(_pytest(file), parts=(("qemu", qemu), ("kernel", kernel))) for file in _GUESTS]
    for release in _OWN_AND_OTHERS:
        made += [Cell(_pytest(file), parts=(("dpdk", release),)) for file in _DRIVERS]
        made.append(Cell(_pytest("tests/test_uml.py"), parts=(("uml", release),)))
        made.append(Cell(_pytest("tests/test_dashboards.py"), parts=(("prometheus", release),)))
    return made


def _pytest(file: str) -> tuple[str, ...]:
    # Tests that take parts from another release by themselves would try the same again in each cell.
    return ("pytest", "-q", "-m", "not release", file)
