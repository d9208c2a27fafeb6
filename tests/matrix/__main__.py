"""Try cells and write what came of them: ``python -m tests.matrix [PATTERN …]``; without a pattern, all."""

import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import click

from mpnet.guest import debian, parts
from tests.matrix.cells import Cell, cells
from tests.matrix.root import Root, root
from tests.matrix.table import PAGE, Row, summary, write


def main(patterns: list[str]) -> int:
    """Try the cells whose names have one of the patterns in them; 1 where one failed."""
    wanted = [cell for cell in cells() if not patterns or any(re.search(each, cell.name) for each in patterns)]
    failed = False
    with tempfile.TemporaryDirectory(prefix="mpnet-matrix-") as folder:
        for row, log in _rows(wanted, Path(folder)):
            click.echo(str(row).strip())
            # At once: the whole takes hours.
            PAGE.write_text(write(PAGE.read_text(), [row]))
            if "**fails**" in row.result:
                failed = True
                click.echo(log.read_text(errors="replace")[-8000:])
    return int(failed)


def _rows(wanted: list[Cell], folder: Path) -> Iterator[tuple[Row, Path]]:
    for release in dict.fromkeys(cell.root for cell in wanted):
        with ExitStack() as stack:
            place = stack.enter_context(root(release)) if release else None
            for cell in (cell for cell in wanted if cell.root == release):
                log = folder / "log"
                status = place.run(cell.command, log) if place else _run_here(cell, log)
                result = summary(status, log.read_text(errors="replace"))
                yield Row(_on(place, folder), _parts(cell), cell.words, result), log


def _run_here(cell: Cell, log: Path) -> int:
    environment = os.environ | {parts.VARIABLE: cell.variable}
    with log.open("wb") as output:
        return subprocess.call(
            [sys.executable, "-m", *cell.command], stdout=output, stderr=output, env=environment
        )


def _on(place: Root | None, folder: Path) -> str:
    command = ["sh", "-c", '. /etc/os-release; python3 --version; echo "$VERSION_CODENAME"']
    if place is None:
        release, python = platform.freedesktop_os_release()["VERSION_CODENAME"], platform.python_version()
    else:
        place.run(command, folder / "on")
        _, python, release = (folder / "on").read_text().split()
    return f"{release}, Python {python}"


def _parts(cell: Cell) -> str:
    return ", ".join(f"{name} {_version(name, release)}" for name, release in cell.parts) or "its own parts"


def _version(name: str, release: str) -> str:
    if name == "kernel" and not release:
        return debian.kernel().release
    # Without Debian's epoch.
    return parts.version(name, release).rpartition(":")[2]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
