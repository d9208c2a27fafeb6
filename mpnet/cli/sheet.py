"""Tables on standard output that cut nothing, however narrow the screen is."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 1 << 14
"""Columns for a program: it reads a row a line."""
_GAP = 3
"""Between two columns of SIMPLE_HEAD; a column of space stands at each end."""


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal; where there is none, as $COLUMNS says or as wide as a row."""
    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        made.width = _PIPE_WIDTH
    return made


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        title: its head.
        right: it holds numbers.
        key: it tells what a row is about, and is repeated where a row is wider than the screen.
        wrap: it holds words, which may go on in a line below.
    """

    title: str
    right: bool = False
    key: bool = False
    wrap: bool = False


class Sheet:
    """Rows under columns. What does not fit beside each other stands below: again with the columns that are keys.

    Args:
        columns: from left to right. The keys come first.
    """

    def __init__(self, *columns: Column) -> None:
        self._columns = columns
        self._rows: list[tuple[str, ...]] = []
        self._widths = [(0, 0)] * len(columns)
        self._measure([column.title for column in columns])

    def add(self, *cells: str) -> None:
        """Add a row; cells may hold markup."""
        self._rows.append(cells)
        self._measure([Text.from_markup(cell).plain for cell in cells])

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        """Give a table, or several of them below each other."""
        for block in self._blocks(options.max_width):
            yield self._table(block, options.max_width)

    def _blocks(self, width: int) -> Iterable[list[int]]:
        """Columns by number: as many as fit beside the keys, and so on to the last."""
        keys = [number for number, column in enumerate(self._columns) if column.key]
        block = list(keys)
        for number in range(len(keys), len(self._columns)):
            if len(block) > len(keys) and self._least((*block, number)) > width:
                yield block
                block = list(keys)
            block.append(number)
        yield block

    def _least(self, numbers: Iterable[int]) -> int:
        """The narrowest that these columns can be, side by side."""
        widths = [self._widths[number][self._columns[number].wrap] for number in numbers]
        return sum(widths) + _GAP * (len(widths) - 1) + 2

    def _measure(self, texts: Sequence[str]) -> None:
        """Note for each column how wide it is with its cells whole, and how wide its longest word is."""
        for number, text in enumerate(texts):
            whole, longest = self._widths[number]
            words = max(map(cell_len, text.split()), default=0)
            self._widths[number] = max(whole, cell_len(text)), max(longest, words)

    def _table(self, numbers: Sequence[int], width: int) -> Table:
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        spare = width - self._least(numbers)
        for number in numbers:
            column = self._columns[number]
            whole, longest = self._widths[number]
            if spare < 0:  # a word alone is wider than the screen: it is folded
                given = None
            elif column.wrap:
                given = min(whole, longest + spare)
                spare -= given - longest
            else:
                given = whole
            justify: Literal["left", "right"] = "right" if column.right else "left"
            table.add_column(
                column.title,
                justify=justify,
                width=given,
                no_wrap=column.right and not column.wrap,
                overflow="fold",
            )
        for row in self._rows:
            table.add_row(*(row[number] for number in numbers))
        return table
