"""What a process that is started by mpnet, and runs mpnet too, inherits."""

import os

_HOW_IT_RUNS = frozenset({"MPNET_CACHE", "MPNET_JIT", "MPNET_PERF"})


def environment() -> dict[str, str]:
    """The environment without the user's own devices and sockets."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith("MPNET_") or name in _HOW_IT_RUNS
    }
