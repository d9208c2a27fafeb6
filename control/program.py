"""Starting Python processes of mpnet's own beside this one."""

import sys

_BOOT = """
import sys
function, count, *words = sys.argv[1:]
arguments, sys.path[:] = words[:int(count)], words[int(count):]
from pkgutil import resolve_name
resolve_name(function)(*arguments)
"""


def command(function: str, *arguments: str) -> list[str]:
    """The words of a process that calls a function of a module.

    It imports from where this process does, and never from the folder that was started in.

    Args:
        function: ``module:function``.
        arguments: what it is called with.
    """
    return [sys.executable, "-P", "-c", _BOOT, function, str(len(arguments)), *arguments, *sys.path]
