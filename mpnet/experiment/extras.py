"""Libraries that only reports and runs over hosts need: the extra ``mpnet[experiments]``."""

import importlib
import sys
from typing import Any

from mpnet.errors import MpnetError

REPORT = ("jinja2", "matplotlib", "pandas", "scipy", "statsmodels")
"""What reports and comparisons are made with."""


def need(module: str, what: str) -> Any:
    """Import a module of the extra.

    Args:
        module: its name.
        what: it is needed for, as people say it.

    Raises:
        MpnetError: it is not installed; names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MpnetError(
            f"{what} needs {module}, which is not installed ({error})",
            f"in a checkout: {sys.executable} -m pip install '.[experiments]'",
        ) from None


def need_all(modules: tuple[str, ...], what: str) -> None:
    """Make sure that all of some modules are there. Raises as ``need``."""
    for module in modules:
        need(module, what)
