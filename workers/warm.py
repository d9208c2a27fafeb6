"""Imported by the fork server before it forks: all that workers share is loaded and compiled here, once.

Processes that compile at the same time would race for the cache, and each would hold machine code of its own.
"""

import gc
from typing import Any

import numba
import numpy as np

from mpnet.jit import perf
from mpnet.jit.compile import JIT, prune_cache
from mpnet.segment import layout
from mpnet.virtio import packed_ring, split_ring
from mpnet.workers import control_queue, loop, main, packed, ring, state, trace, writer

__all__ = ["main", "warm_up"]


def _context_type() -> Any:
    """Numba's type of a context, from one that belongs to no device."""
    rings = np.zeros(layout.ring_count(1), layout.RING).view(np.recarray)
    stats = np.zeros(1, layout.WORKER).view(np.recarray)
    typeof: Any = numba.typeof  # untyped in Numba
    return typeof(state.make_context(rings, stats, state.Scratch()))


def warm_up() -> None:
    """Compile, or load from the cache, every function that Python calls: an isolated worker cannot."""
    prune_cache()
    context = _context_type()
    entry_points: list[tuple[Any, int]] = [
        (loop.serve, 0),
        (ring.break_ring, 2),
        (ring.call, 1),
        (packed.replay, 1),
        (writer.probe_plain, 1),
        (writer.probe_queued, 0),
        (trace.trace, 4),
        (control_queue.take_command, 2),
        (control_queue.complete_command, 2),
    ]
    for function, integers in entry_points:
        function.compile((context, *(numba.int64,) * integers))
    accessors: list[tuple[Any, int]] = [
        (split_ring.used_index, 1),
        (split_ring.publish_used, 2),
        (packed_ring.descriptor_flags, 1),
    ]
    for function, integers in accessors:
        function.compile((numba.int64,) * integers)
    if perf.PERF:
        perf.write_map()


if JIT:
    warm_up()
# What is here now is shared by all workers: keep the collector from writing to its pages.
gc.collect()
gc.freeze()
