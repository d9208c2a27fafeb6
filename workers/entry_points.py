"""What is made machine code of the data path: what Python calls, and what is compiled apart."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from mpnet.segment import layout
from mpnet.virtio import packed_ring, split_ring
from mpnet.workers import (
    consume,
    control_queue,
    echo,
    loop,
    packed,
    receive,
    ring,
    state,
    trace,
    transmit,
    writer,
)

GROUPS: tuple[tuple[tuple[Any, int], ...], ...] = (
    ((transmit.transmit, 1),),
    (
        (receive.receive, 1),
        (echo.echo, 1),
        (consume.consume, 1),
        (control_queue.take_command, 2),
        (control_queue.complete_command, 2),
        (ring.break_ring, 2),
        (ring.call, 1),
        (ring.ask_for_kick, 1),
        (packed.replay, 1),
        (writer.probe_plain, 1),
        (writer.probe_queued, 0),
        (trace.trace, 4),
    ),
    ((loop.serve, 0),),
)
"""Functions, each with how many integers it takes beside the context.

The first groups take about as long as each other, and can be compiled at the same time; the last calls what is in
them.
"""


def _context_type() -> Any:
    """Numba's type of a context, from one that belongs to no device."""
    import numba  # noqa: PLC0415 - workers that are interpreted load no compiler

    rings = np.zeros(layout.ring_count(1), layout.RING).view(np.recarray)
    stats = np.zeros(1, layout.WORKER).view(np.recarray)
    typeof: Any = numba.typeof  # untyped in Numba
    return typeof(state.make_context(rings, stats, state.Scratch()))


ACCESSORS: tuple[tuple[Any, int], ...] = (
    (split_ring.used_index, 1),
    (split_ring.publish_used, 2),
    (packed_ring.position, 1),
    (packed_ring.wraps, 1),
    (packed_ring.advance, 3),
    (packed_ring.handover_id, 1),
    (packed_ring.handover_flags, 1),
    (packed_ring.used_flags, 1),
)
"""Called by Python too, likewise, without the context; they go with the last group."""


def count(numbers: Iterable[int]) -> int:
    """How many functions these groups take to compile, each once."""
    entries = [function for number in numbers for function, _ in GROUPS[number]]
    apart = {function for group in GROUPS for function, _ in group}
    seen: set[Any] = set()
    waiting = list(entries)
    while waiting:
        function = waiting.pop()
        if function not in seen:
            seen.add(function)
            code, names = function.py_func.__code__, function.py_func.__globals__
            called = (names.get(name) for name in code.co_names)
            waiting += [each for each in called if hasattr(each, "py_func") and each not in apart]
    return len(seen)


def compile_group(number: int) -> None:
    """Compile, or load from the cache, one of ``GROUPS``: an isolated worker cannot."""
    import numba  # noqa: PLC0415 - likewise

    context = _context_type()
    for function, integers in GROUPS[number]:
        function.compile((context, *(numba.int64,) * integers))
    if number == len(GROUPS) - 1:
        for function, integers in ACCESSORS:
            function.compile((numba.int64,) * integers)
