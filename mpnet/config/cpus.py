"""Sets of processors as people write them: ``0-3,8``."""

import re
from collections.abc import Iterable
from itertools import groupby

from mpnet.config.place import FieldError

MAX_CPU = 8191
"""The highest number Linux can be built for (CONFIG_NR_CPUS on x86-64)."""

_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?", re.ASCII)


def parse_cpus(text: str) -> tuple[int, ...]:
    """Read numbers and ranges; ``+`` separates as ``,`` does, for device strings, where a comma ends the word.

    Returns:
        The processors in the order written: the n-th worker is pinned to the n-th, and round again.

    Raises:
        FieldError: names the part that is no number or range, or is given twice.
    """
    cpus: list[int] = []
    for part in text.replace("+", ",").split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise FieldError(
                "cpus",
                f"cpus has {part!r}, expected numbers and ranges",
                "write them as 0-3+8 or, outside a device string, 0-3,8",
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last <= MAX_CPU:
            raise FieldError(
                "cpus", f"cpus has {part!r}, expected a rising range that ends at {MAX_CPU} or below"
            )
        cpus.extend(range(first, last + 1))
    return tuple(cpus)


def format_cpus(cpus: Iterable[int], separator: str = "+") -> str:
    """Write processors with ranges where consecutive ones follow each other."""
    runs = groupby(enumerate(cpus), key=lambda item: item[1] - item[0])
    words = []
    for _, run in runs:
        numbers = [cpu for _, cpu in run]
        words.append(str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}")
    return separator.join(words)
