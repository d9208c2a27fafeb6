"""Named tuples of arrays that compiled functions pass on as one word.

Numba passes a named tuple by value: each of its arrays is seven words, copied to the stack at every call that is
not inlined. That took longer than the work of most functions that are called for every frame. A *bundle* goes as
the address of a table instead, two words an array: where it is and how many elements it has.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mpnet.jit.compile import JIT

if JIT:
    from mpnet.jit.bundle_type import register

Class = TypeVar("Class", bound=type)


def bundle(cls: Class) -> Class:
    """Have compiled functions take named tuples of this class by address.

    All members are one-dimensional arrays without gaps, and ``table``, the last, is what ``make_table`` makes of
    them; whoever owns the tuple keeps them where they are.
    """
    if JIT:
        register(cls)
    return cls


def make_table(members: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    """Where each of ``members`` is, and how many elements it has; int64, shape ``(2 * members,)``."""
    return np.array([word for each in members for word in (each.ctypes.data, len(each))], np.int64)
