"""The table in docs/support.md: a row a cell, of the last time that it was tried."""

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/support.md"
_BEGIN, _END = "<!-- make test-matrix writes this -->\n", "<!-- to here -->\n"
_HEAD = "| on | with | command | result |\n|---|---|---|---|\n"


@dataclass(frozen=True)
class Row:
    """What came of a cell.

    Attributes:
        on: the release of Debian it ran on, and its Python.
        parts: that it was about, with their versions.
        command: what was run.
        result: in a few words.
    """

    on: str
    parts: str
    command: str
    result: str

    def __str__(self) -> str:
        return f"| {self.on} | {self.parts} | `{self.command}` | {self.result} |\n"

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is the row of, whatever the versions of Python and of packages are."""
        return (self.on.partition(",")[0], re.sub(r"(\d+\.\d+)[^ ,]*", r"\1", self.parts), self.command)


def read(text: str) -> list[Row]:
    """Give the rows of a page."""
    lines = text.partition(_BEGIN)[2].partition(_END)[0].splitlines()[2:]
    return [Row(*(word.strip().strip("`") for word in line.strip("|").split("|"))) for line in lines]


def write(text: str, rows: list[Row]) -> str:
    """Give a page with these rows in the place of those that were of the same cells."""
    every = {row.key: row for row in (*read(text), *rows)}
    before, _, rest = text.partition(_BEGIN)
    body = "".join(str(every[key]) for key in sorted(every))
    return f"{before}{_BEGIN}{_HEAD}{body}{_END}{rest.partition(_END)[2]}"


def summary(status: int, said: str) -> str:
    """Say in a few words what came of a command, from its status and the end of what it said."""
    counts = re.findall(r"(\d+) (passed|failed|errors?|skipped)\b", said[-2000:])
    told = ", ".join(f"{number} {what}" for number, what in counts)
    if status == 0:
        return told or "works"
    return f"**fails**: {told}" if told else f"**fails**: status {status}"
