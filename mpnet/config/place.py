"""Where a setting was written, so that an error can point at it."""

from dataclasses import dataclass
from typing import Self

from mpnet.errors import ConfigError


class FieldError(ConfigError):
    """A value that does not fit its field, before it is known where the value was written.

    Args:
        field: the field's name in Python's spelling.
        problem: what was given and what was expected.
        remedy: what to do.
    """

    def __init__(self, field: str, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)
        self.field = field


class PlacedError(ConfigError):
    """An error with the line it is about and a caret under the word.

    Attributes:
        excerpt: two lines, the second with the carets.
    """

    def __init__(self, problem: str, remedy: str, excerpt: str) -> None:
        super().__init__(problem, remedy)
        self.excerpt = excerpt

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.excerpt}"


@dataclass(frozen=True, slots=True)
class Place:
    """A word of a line a user wrote.

    Attributes:
        source: what a person calls the line: a flag, an environment variable, a file and its line number.
        line: the whole line.
        start: index of the word's first character.
        end: index after its last one; the same as ``start`` where something is missing.
    """

    source: str
    line: str
    start: int
    end: int

    @classmethod
    def whole(cls, source: str, line: str) -> Self:
        """The place of a line that is one word."""
        return cls(source, line, 0, len(line))

    def error(self, problem: str, remedy: str = "") -> PlacedError:
        """Make the error about this word."""
        # A control character would tear the carets from their word, or do worse to a terminal.
        shown = "".join(character if character.isprintable() else "?" for character in self.line)
        carets = " " * self.start + "^" * max(1, self.end - self.start)
        return PlacedError(f"{self.source}: {problem}", remedy, f"  {shown}\n  {carets}")
