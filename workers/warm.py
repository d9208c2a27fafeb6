"""Imported by a fork server before it forks: all that workers share is loaded here, once.

Where code is kept, that is loading it. The compiler would leave its memory with every worker: processes of their
own compile (``workers.compile``), and two of them at once.
"""

import gc

from mpnet.jit import cache, perf
from mpnet.jit.compile import JIT
from mpnet.workers import main
from mpnet.workers.entry_points import GROUPS, compile_group

__all__ = ["main", "warm_up"]


def warm_up() -> None:
    """Compile, or load from the cache, every function that Python calls."""
    for number in range(len(GROUPS)):
        compile_group(number)
    if perf.PERF:
        perf.write_map()
    if not cache.LOAD_ONLY:
        from mpnet.jit import kept  # noqa: PLC0415 - workers that are interpreted load no compiler

        kept.seal()


if JIT:
    warm_up()
# What is here now is shared by all workers: keep the collector from writing to its pages.
gc.collect()
gc.freeze()
