"""How far two processors are from each other: what a word takes from one to the other and is seen there.

Driver and device at full speed are little more than such words. Where a hypervisor moves virtual processors
about, the distance between them changes from one second to the next, and with it all that is measured there.
"""

import os
import threading

import numpy as np
from numpy.typing import NDArray

from mpnet.jit.compile import JIT, compiled
from mpnet.jit.memory import load_acquire_i64, store_release_i64
from mpnet.jit.syscalls import clock_ns

_CLOCK_MONOTONIC = 1
_LINE_WORDS = 8
_ROUNDS = 1000 if JIT else 2
"""Of one try: a tenth of a millisecond, more where processors are far apart."""
_TRIES = 5
"""Something else may have had one of the processors meanwhile, which makes a try longer and never shorter."""
_PATIENCE_NS = 50_000_000
"""After which a try is given up: the other thread is kept from its processor."""


def distance_ns(here: int, there: int) -> float | None:
    """Nanoseconds a word takes between two processors, the least of some tries.

    Args:
        here: processor that the calling thread is pinned to.
        there: the other; this process may use it.

    Returns:
        None where it is the same one, or where other work kept a processor busy all the while.
    """
    if here == there:
        return None
    found = [each for each in (_try(there) for _ in range(_TRIES)) if each > 0]
    return min(found) / (2 * _ROUNDS) if found else None


def _try(there: int) -> int:
    # The word has a line of its own, as have the clocks' places.
    words = np.zeros(4 * _LINE_WORDS, np.int64)
    answering = threading.Thread(target=_answer, args=(words, there))
    answering.start()
    took = exchange(words, 0)
    answering.join()
    return took


def _answer(words: NDArray[np.int64], cpu: int) -> None:
    os.sched_setaffinity(0, {cpu})
    exchange(words, 1)


@compiled
def exchange(words: NDArray[np.int64], first: int) -> int:
    """Count a word up, in turn with another thread that does so too.

    Args:
        words: 256 bytes that both have; zero at the beginning.
        first: the count at which it is our turn for the first time, 0 or 1.

    Returns:
        Nanoseconds from the other's first turn to the end; 0 where it did not take all of its turns.
    """
    word = words.ctypes.data + 8 * _LINE_WORDS
    timespec = word + 8 * _LINE_WORDS * (1 + first)
    started = clock_ns(_CLOCK_MONOTONIC, timespec)
    end = started + _PATIENCE_NS
    for turn in range(_ROUNDS + 1):
        looks = 0
        while load_acquire_i64(word) != 2 * turn + first:
            looks += 1
            if looks % 1024 == 0 and clock_ns(_CLOCK_MONOTONIC, timespec) > end:
                return 0
        if turn == 1:
            started = clock_ns(_CLOCK_MONOTONIC, timespec)
        store_release_i64(word, 2 * turn + first + 1)
    return clock_ns(_CLOCK_MONOTONIC, timespec) - started
