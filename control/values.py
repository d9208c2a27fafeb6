"""Values that people give for a device, checked where this machine has a say in them."""

import os
from typing import Any

from mpnet.errors import ConfigError


def number(name: str, value: Any, low: int, high: int) -> int:
    """Read a number, which may be text.

    Raises:
        ConfigError: it is none, or out of range.
    """
    try:
        read = int(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} is {value!r}, expected a number from {low} to {high}") from None
    if not low <= read <= high:
        raise ConfigError(f"{name} is {read}, expected {low} to {high}")
    return read


def check_cpus(cpus: tuple[int, ...]) -> None:
    """Refuse processors that this process may not use.

    Raises:
        ConfigError: names the first of them.
    """
    allowed = os.sched_getaffinity(0)
    missing = sorted(set(cpus) - allowed)
    if missing:
        raise ConfigError(
            f"cpus names processor {missing[0]}, which this process may not use",
            f"choose among {', '.join(str(cpu) for cpu in sorted(allowed))}",
        )
